# The production image for every architecture that it is for, from the Dockerfile:
#
#   docker buildx bake -f deploy/docker-bake.hcl                                    this machine's, loaded into the engine
#   IMAGE=registry.example/event-handler TAG=1.0 docker buildx bake -f deploy/docker-bake.hcl all --push
#
# Each architecture is compiled on a builder of its own kind, or emulated where there is none
# (`docker buildx create --append` adds a builder).

variable "IMAGE" {
  default = "event-handler"
}

variable "TAG" {
  default = "latest"
}

group "default" {
  targets = ["local"]
}

target "image" {
  context    = "."
  dockerfile = "Dockerfile"
  pull       = true
  tags       = ["${IMAGE}:${TAG}"]
}

target "local" {
  inherits = ["image"]
  output   = ["type=docker"]
}

target "all" {
  inherits  = ["image"]
  platforms = ["linux/amd64", "linux/arm64"]
  attest    = ["type=provenance,mode=max", "type=sbom"]
}
