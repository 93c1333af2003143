# The production image: docker build -t event-handler .
# For several architectures: docker buildx bake -f deploy/docker-bake.hcl
ARG RUST_IMAGE=docker.io/library/rust:1.95-slim-bookworm
ARG RUNTIME_IMAGE=docker.io/library/debian:bookworm-slim

FROM ${RUST_IMAGE} AS build
# Set by BuildKit. Each architecture has its own artefacts.
ARG TARGETARCH
# make and perl build the OpenSSL that libpq speaks TLS with.
# Not pinned: security updates of the base image's Debian are wanted.
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install -y --no-install-recommends gcc libc6-dev make perl \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,id=event-handler-target-${TARGETARCH},sharing=locked,target=/src/target \
    cargo build --locked --profile dist --features postgres-tls --bin event-handler \
 && cp target/dist/event-handler /event-handler

FROM ${RUNTIME_IMAGE}
# Not pinned: security updates of the base image's Debian are wanted.
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install -y --no-install-recommends ca-certificates \
 && rm -rf /var/lib/apt/lists/* \
 && groupadd --gid 10001 event-handler \
 && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /data --shell /usr/sbin/nologin event-handler \
 && install -d -o event-handler -g event-handler /data \
 && install -D /dev/null /etc/event-handler/event-handler.toml
COPY --from=build /event-handler /usr/local/bin/event-handler

# A configuration is mounted over EVENT_HANDLER_CONFIG, which is empty. SSL_CERT_FILE is what `sslrootcert=system` in DATABASE_URL goes by.
ENV APP_ENV=production \
    EVENT_HANDLER_CONFIG=/etc/event-handler/event-handler.toml \
    HOST=0.0.0.0 \
    PORT=4300 \
    DATABASE_URL=sqlite:/data/event-handler.db \
    SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt
# A number, so that it is known not to be root. What is kept in `data/` by default is in the volume.
USER 10001:10001
WORKDIR /
VOLUME /data
EXPOSE 4300
# Whether the process can serve. Whether it is ready is for those who send it requests to ask (`health --ready`).
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s --retries=3 CMD ["event-handler", "health"]
ENTRYPOINT ["event-handler"]
CMD ["serve"]
