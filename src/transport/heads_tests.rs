use proptest::prelude::*;

use super::*;

/// What the library gets when `input` comes in pieces, and what is kept back at the end.
fn passed_on<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> (Vec<u8>, Vec<u8>, bool) {
    let (mut heads, mut kept, mut out) = (Heads::default(), Vec::new(), Vec::new());
    for piece in pieces {
        kept.extend_from_slice(piece);
        match heads.see(&kept) {
            Seen::AsTheyAre => out.append(&mut kept),
            Seen::Changed(bytes, left) => {
                out.extend_from_slice(&bytes);
                kept.drain(..kept.len() - left);
            }
        }
    }
    (out, kept, heads.is_lost())
}

fn whole(input: &str) -> (String, bool) {
    let (mut out, kept, is_lost) = passed_on([input.as_bytes()]);
    out.extend(kept);
    (String::from_utf8(out).expect("UTF-8"), is_lost)
}

/// Several requests, and what the library is to read.
const REQUESTS: [(&str, &str); 7] = [
    (
        "GET /events?event_name=user.> HTTP/1.1\r\nHost: a>b\r\n\r\n",
        "GET /events?event_name=user.%3E HTTP/1.1\r\nHost: a>b\r\n\r\n",
    ),
    ("POST /publish HTTP/1.1\r\nHost: a\r\nContent-Length: 16\r\n\r\nGET /> HTTP/1.0\r", ""),
    ("POST /ready HTTP/1.0\r\n\r\n", "POST /ready HTTP/1.0\r\nContent-Length: 0\r\n\r\n"),
    ("GET /?x=\"größe\" HTTP/1.1\r\nHost: a\r\n\r\n", "GET /?x=%22gr%C3%B6%C3%9Fe%22 HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("PUT /<`a> HTTP/1.0\r\nX:\r\n\r\n", "PUT /%3C%60a%3E HTTP/1.0\r\nX:\r\n\r\n"),
    (
        "POST /> HTTP/1.1\r\nHost: a\r\ntransfer-encoding: Chunked\r\n\r\n1c\r\nGET /> HTTP/1.1\r\nHost: a\r\n\r\n\r\n0\r\n\r\n",
        "POST /%3E HTTP/1.1\r\nHost: a\r\ntransfer-encoding: Chunked\r\n\r\n1c\r\nGET /> HTTP/1.1\r\nHost: a\r\n\r\n\r\n0\r\n\r\n",
    ),
    ("GET /x HTTP/1.1\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n", ""),
];

#[test]
fn heads_are_mended_and_nothing_else() {
    for (sent, read) in REQUESTS {
        let read = if read.is_empty() { sent } else { read };
        assert_eq!(whole(sent), (read.to_owned(), false), "{sent}");
    }
}

#[test]
fn what_cannot_become_a_plain_head_is_not_kept_back() {
    for sent in ["GET / HTTP/1.0\n\n", "GET / HTTP/1.1\r\nHost: a\n", "\x16\x03\x01", "get /", "\r\n"] {
        let bytes = sent.as_bytes();
        assert_eq!(passed_on([bytes]), (bytes.to_vec(), vec![], true), "{sent:?}");
        let (out, kept, is_lost) = passed_on(bytes.chunks(1));
        assert_eq!((out, kept, is_lost), (bytes.to_vec(), vec![], true), "{sent:?} byte by byte");
    }
}

#[test]
fn what_is_in_doubt_is_passed_on_as_it_is() {
    let next = "GET /> HTTP/1.1\r\nHost: a\r\n\r\n";
    for sent in [
        "NONSENSE\r\n\r\n",
        "GET /a> b HTTP/1.1\r\n\r\n",
        "GET /a> HTTP/2.0\r\n\r\n",
        "GET /a> HTTP/1.1\nHost: a\r\n\r\n",
        "GET /a> HTTP/1.1\r\nHost: a\n\r\n\r\n",
        "GET /a> HTTP/1.1\r\nno colon\r\n\r\n",
        "GET /a> HTTP/1.1\r\nX: a\r\n folded: b\r\n\r\n",
        "\r\nGET /a> HTTP/1.1\r\n\r\n",
        "get /a> HTTP/1.1\r\n\r\n",
        "POST /a> HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nx",
        "POST /a> HTTP/1.1\r\nContent-Length: +1\r\n\r\nx",
        "POST /a> HTTP/1.1\r\nContent-Length: 1, 1\r\n\r\nx",
        "POST /a> HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\nx",
        "POST /a> HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST /a> HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        "POST /a> HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ] {
        let sent = format!("{sent}{next}");
        assert_eq!(whole(&sent), (sent.clone(), true), "{sent}");
    }
    // The head is certain, but not what follows it.
    for (sent, read) in [
        ("GET /> HTTP/1.1\r\nUpgrade: WebSocket\r\n\r\n", "GET /%3E HTTP/1.1\r\nUpgrade: WebSocket\r\n\r\n"),
        ("CONNECT a:1 HTTP/1.1\r\n\r\n", "CONNECT a:1 HTTP/1.1\r\n\r\n"),
    ] {
        assert_eq!(whole(&format!("{sent}{next}")), (format!("{read}{next}"), true), "{sent}");
    }
    let chunked = "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n";
    for body in
        ["1;x=y\r\na\r\n0\r\n\r\n", "1\na\r\n0\r\n\r\n", "1\r\nab\r\n0\r\n\r\n", "0\r\nX: y\r\n\r\n", "\r\n", "x"]
    {
        let sent = format!("{chunked}{body}{next}");
        assert_eq!(whole(&sent), (sent.clone(), true), "{sent}");
    }
}

#[test]
fn a_head_that_is_not_whole_is_kept_back_up_to_a_bound() {
    let (out, kept, _) = passed_on([&b"GET /a> HTTP/1.1\r\nHost: a\r\n\r\nPOST /b> HTTP/1.1\r\n"[..]]);
    assert_eq!((out, kept), (b"GET /a%3E HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(), b"POST /b> HTTP/1.1\r\n".to_vec()));
    let long = [b"GET /> HTTP/1.1\r\nX: ".to_vec(), vec![b'x'; MAX_HEAD]].concat();
    assert_eq!(passed_on([&long[..]]), (long.clone(), Vec::new(), true));
    let mut heads = Heads::default();
    assert_eq!(heads.see(b"GET /"), Seen::Changed(Vec::new(), 5));
    heads.end();
    assert_eq!(heads.see(b"GET /"), Seen::AsTheyAre);
}

proptest! {
    /// However the bytes are cut, the same comes out.
    #[test]
    fn pieces_make_no_difference(
        order in proptest::collection::vec(0..REQUESTS.len(), 1..6),
        cuts in proptest::collection::vec(1..40_usize, 0..200),
    ) {
        let sent: String = order.iter().map(|at| REQUESTS[*at].0).collect();
        let read = |at: &usize| if REQUESTS[*at].1.is_empty() { REQUESTS[*at].0 } else { REQUESTS[*at].1 };
        let read: String = order.iter().map(read).collect();
        let mut rest = sent.as_bytes();
        let mut pieces = Vec::new();
        for cut in cuts {
            let (piece, after) = rest.split_at(cut.min(rest.len()));
            pieces.push(piece);
            rest = after;
        }
        pieces.push(rest);
        let (out, kept, is_lost) = passed_on(pieces.into_iter().filter(|piece| !piece.is_empty()));
        prop_assert_eq!(String::from_utf8(out).expect("UTF-8"), read);
        prop_assert!(kept.is_empty() && !is_lost);
    }
}
