//! The format of an answer, by the header `Accept`.

use actix_web::HttpRequest;
use actix_web::http::header::ACCEPT;

/// The format in which events are answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// One JSON document.
    Json,
    /// JSON documents, one a line.
    Lines,
    /// Server-sent events.
    EventStream,
}

/// The format that the request prefers; JSON if it names none that is known here.
pub fn format(req: &HttpRequest) -> Format {
    let values = req.headers().get_all(ACCEPT).filter_map(|value| value.to_str().ok());
    preferred(values.flat_map(|value| value.split(',')))
}

/// The known format with the greatest weight; of equal ones the first.
fn preferred<'a>(ranges: impl Iterator<Item = &'a str>) -> Format {
    let mut best = (0.0, Format::Json);
    for range in ranges {
        let mut parts = range.split(';').map(str::trim);
        let known = match parts.next().unwrap_or_default().to_ascii_lowercase().as_str() {
            "application/json" | "application/*" | "*/*" => Format::Json,
            "application/x-ndjson" | "application/ndjson" | "application/jsonl" => Format::Lines,
            "text/event-stream" => Format::EventStream,
            _ => continue,
        };
        let weight = parts.find_map(|part| part.strip_prefix("q=")?.parse().ok()).unwrap_or(1.0);
        if weight > best.0 {
            best = (weight, known);
        }
    }
    best.1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_greatest_weight_wins() {
        for (accept, expected) in [
            ("", Format::Json),
            ("*/*", Format::Json),
            ("text/html, */*;q=0.8", Format::Json),
            ("text/event-stream", Format::EventStream),
            ("Text/Event-Stream; charset=utf-8", Format::EventStream),
            ("application/x-ndjson", Format::Lines),
            ("application/ndjson", Format::Lines),
            ("application/jsonl", Format::Lines),
            ("application/json;q=0.5, application/x-ndjson", Format::Lines),
            ("application/x-ndjson;q=0.5, application/json", Format::Json),
            ("text/event-stream;q=0", Format::Json),
            ("application/x-ndjson, text/event-stream", Format::Lines),
            ("image/png", Format::Json),
        ] {
            assert_eq!(preferred(accept.split(',')), expected, "{accept:?}");
        }
    }
}
