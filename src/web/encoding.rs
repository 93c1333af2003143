//! Content codings: compressed request bodies and answers.

use std::io::{self, Read, Write};

use actix_web::HttpResponse;
use actix_web::body::{BodySize, BoxBody, MessageBody};
use actix_web::dev::ServiceResponse;
use actix_web::http::header::{ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_LENGTH, ETAG, HeaderMap, HeaderValue, VARY};
use actix_web::web::Bytes;
use flate2::Compression;
use flate2::bufread::MultiGzDecoder;
use flate2::write::GzEncoder;
use ruzstd::decoding::StreamingDecoder;

use crate::protocol::error::{ApiError, ErrorCode};

/// The names of the codings that are understood.
const SUPPORTED: [&str; 4] = ["gzip", "br", "zstd", "identity"];
/// Most memory that a zstd frame may ask for its window, in bytes (RFC 9659).
const ZSTD_WINDOW: u64 = 8 * 1024 * 1024;
/// Buffer of the brotli decoder, in bytes.
const BROTLI_BUFFER: usize = 4096;

/// Shortest answer that is compressed, in bytes: a shorter one fits into one packet uncompressed.
const SHORTEST: u64 = 1024;
/// Longest answer that is compressed on the worker's own thread, in bytes: about a quarter of a millisecond.
const LONGEST_AT_ONCE: usize = 32 * 1024;

/// How a body was compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Coding {
    Gzip,
    Brotli,
    Zstd,
}

/// The coding that `Content-Encoding` names; none if the body is not compressed.
pub fn coding(headers: &HeaderMap) -> Result<Option<Coding>, ApiError> {
    let values = headers.get_all(CONTENT_ENCODING).map(|value| value.to_str().unwrap_or("unreadable"));
    let mut found = None;
    for name in values.flat_map(|value| value.split(',')).map(str::trim) {
        let coding = match name.to_ascii_lowercase().as_str() {
            "" | "identity" => continue,
            "gzip" | "x-gzip" => Coding::Gzip,
            "br" => Coding::Brotli,
            "zstd" => Coding::Zstd,
            _ => return Err(unsupported(&format!("unsupported content encoding {name:?}"))),
        };
        if found.replace(coding).is_some() {
            return Err(unsupported("the body is encoded more than once"));
        }
    }
    Ok(found)
}

fn unsupported(what: &str) -> ApiError {
    let message = format!("{what}: send the body in one of {}", SUPPORTED.join(", "));
    ApiError::new(ErrorCode::UnsupportedMediaType, message).with("supported", SUPPORTED.to_vec())
}

/// The decompressed body; none if it has more than `limit` bytes. At most one byte beyond that is decompressed.
pub async fn decode(coding: Coding, body: Bytes, limit: usize) -> Result<Option<Bytes>, ApiError> {
    let decoded = actix_rt::task::spawn_blocking(move || unpack(coding, &body, limit)).await;
    match decoded {
        Ok(Ok(body)) if body.len() > limit => Ok(None),
        Ok(Ok(body)) => Ok(Some(body.into())),
        Ok(Err(error)) => {
            Err(ApiError::new(ErrorCode::MalformedRequest, format!("the body is not what its encoding says: {error}")))
        }
        Err(_) => Err(ApiError::new(ErrorCode::Internal, "the body could not be decoded")),
    }
}

/// Decompresses at most `limit` bytes and one more.
fn unpack(coding: Coding, mut packed: &[u8], limit: usize) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    let most = limit as u64 + 1;
    match coding {
        Coding::Gzip => MultiGzDecoder::new(packed).take(most).read_to_end(&mut body)?,
        Coding::Brotli => {
            brotli_decompressor::Decompressor::new(packed, BROTLI_BUFFER).take(most).read_to_end(&mut body)?
        }
        Coding::Zstd => {
            // A body may have several frames, one after the other.
            while !packed.is_empty() && body.len() <= limit {
                let frame =
                    StreamingDecoder::new_with_max_window_size(&mut packed, ZSTD_WINDOW).map_err(io::Error::other)?;
                frame.take(most - body.len() as u64).read_to_end(&mut body)?;
            }
            body.len()
        }
    };
    Ok(body)
}

/// The answer, compressed if it is complete, long enough, and the request accepts that. Streams are not compressed.
pub async fn answer(response: ServiceResponse<BoxBody>) -> ServiceResponse<BoxBody> {
    let is_long = matches!(response.response().body().size(), BodySize::Sized(size) if size >= SHORTEST);
    let headers = response.headers();
    // A strong entity tag names exactly these bytes, so they must not change.
    if !is_long || headers.contains_key(CONTENT_ENCODING) || headers.contains_key(ETAG) {
        return response;
    }
    let wanted = accepts_gzip(response.request().headers());
    let (request, response) = response.into_parts();
    let (mut response, body) = response.into_parts();
    let body = match body.try_into_bytes() {
        Ok(body) => body,
        Err(body) => return ServiceResponse::new(request, response.set_body(body)),
    };
    response.headers_mut().append(VARY, HeaderValue::from_static("Accept-Encoding"));
    let body = match wanted {
        true => compressed(&mut response, body).await,
        false => body,
    };
    ServiceResponse::new(request, response.set_body(BoxBody::new(body)))
}

async fn compressed(response: &mut HttpResponse<()>, body: Bytes) -> Bytes {
    let packed = if body.len() <= LONGEST_AT_ONCE {
        pack(&body)
    } else {
        let copy = body.clone();
        actix_rt::task::spawn_blocking(move || pack(&copy)).await.unwrap_or_else(|error| Err(io::Error::other(error)))
    };
    let Ok(packed) = packed else { return body };
    response.headers_mut().insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    response.headers_mut().remove(CONTENT_LENGTH);
    packed.into()
}

fn pack(body: &[u8]) -> io::Result<Vec<u8>> {
    let mut packed = GzEncoder::new(Vec::with_capacity(body.len() / 4), Compression::fast());
    packed.write_all(body)?;
    packed.finish()
}

/// Whether `Accept-Encoding` accepts gzip and does not prefer an uncompressed answer (RFC 9110, section 12.5.3).
pub fn accepts_gzip(headers: &HeaderMap) -> bool {
    let values: Vec<&str> = headers.get_all(ACCEPT_ENCODING).filter_map(|value| value.to_str().ok()).collect();
    let weight = |wanted: &str| {
        let ranges = values.iter().flat_map(|value| value.split(','));
        let mut weights = ranges.filter_map(|range| {
            let mut parts = range.split(';').map(str::trim);
            parts.next().filter(|name| name.eq_ignore_ascii_case(wanted))?;
            let weight = parts.find_map(|part| part.strip_prefix("q=").or_else(|| part.strip_prefix("Q=")));
            weight.map_or(Some(1.0), |text| text.trim().parse::<f32>().ok())
        });
        weights.next()
    };
    let gzip = weight("gzip").or_else(|| weight("x-gzip")).or_else(|| weight("*")).unwrap_or(0.0);
    gzip > 0.0 && gzip >= weight("identity").unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use actix_web::http::header::HeaderName;

    use super::*;

    fn headers(name: HeaderName, values: &[&'static str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        values.iter().for_each(|value| headers.append(name.clone(), HeaderValue::from_static(value)));
        headers
    }

    #[test]
    fn gzip_is_for_who_asks_for_it() {
        for (accept, expected) in [
            (&[][..], false),
            (&[""], false),
            (&["gzip"], true),
            (&["br, GZIP;q=0.5"], true),
            (&["deflate", "x-gzip"], true),
            (&["*"], true),
            (&["*;q=0.1, gzip;q=0"], false),
            (&["gzip;q=0"], false),
            (&["gzip;q=0.0, *"], false),
            (&["gzip;q=0.5, identity"], false),
            (&["identity;q=0.5, gzip;q=1.0"], true),
            (&["br, zstd"], false),
        ] {
            assert_eq!(accepts_gzip(&headers(ACCEPT_ENCODING, accept)), expected, "{accept:?}");
        }
    }

    #[test]
    fn one_coding_is_taken() {
        let found = |values: &[&'static str]| coding(&headers(CONTENT_ENCODING, values)).map_err(|error| error.code());
        assert_eq!(found(&[]), Ok(None));
        assert_eq!(found(&["identity", ""]), Ok(None));
        assert_eq!(found(&["identity, X-Gzip"]), Ok(Some(Coding::Gzip)));
        assert_eq!((found(&["br"]), found(&["zstd"])), (Ok(Some(Coding::Brotli)), Ok(Some(Coding::Zstd))));
        for refused in [&["deflate"][..], &["gzip, gzip"], &["gzip", "br"]] {
            assert_eq!(found(refused), Err(ErrorCode::UnsupportedMediaType), "{refused:?}");
        }
    }

    #[test]
    fn bodies_are_unpacked_up_to_the_limit() {
        let text = "auction ".repeat(1000);
        let zstd = |text: &str| {
            ruzstd::encoding::compress_to_vec(text.as_bytes(), ruzstd::encoding::CompressionLevel::Fastest)
        };
        let gzip = |text: &str| pack(text.as_bytes()).expect("packed");
        for (coding, packed) in [(Coding::Gzip, gzip(&text)), (Coding::Zstd, zstd(&text))] {
            assert_eq!(unpack(coding, &packed, 8000).expect("unpacked"), text.as_bytes(), "{coding:?}");
            assert_eq!(unpack(coding, &packed, 100).expect("unpacked").len(), 101, "{coding:?}");
            // Of several parts, too.
            assert_eq!(unpack(coding, &[&packed[..], &packed].concat(), 16_000).expect("unpacked").len(), 16_000);
            assert_eq!(unpack(coding, &[&packed[..], &packed].concat(), 9_000).expect("unpacked").len(), 9_001);
            assert!(unpack(coding, &packed[..packed.len() / 2], 8000).is_err(), "{coding:?}");
        }
        for coding in [Coding::Gzip, Coding::Brotli, Coding::Zstd] {
            assert!(unpack(coding, b"{\"event_name\":\"a\"}", 8000).is_err(), "{coding:?}");
        }
        // A frame that asks for a window of 64 MiB: magic number, no size, the window.
        assert!(unpack(Coding::Zstd, &[0x28, 0xb5, 0x2f, 0xfd, 0x00, 16 << 3, 0x01, 0x00, 0x00], 8000).is_err());
    }
}
