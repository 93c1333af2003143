use proptest::prelude::*;

use super::*;
use crate::transport::test_client::{client_frame, client_header};

const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];
const FIN: u8 = 0x80;

fn decoder() -> FrameDecoder {
    FrameDecoder::new(InboundLimits { max_message: 64 * 1024, max_fragments: 100 })
}

/// Everything in `bytes`, which arrive at once.
fn decode_all(decoder: &mut FrameDecoder, bytes: &[u8]) -> Result<Vec<Inbound>, InboundError> {
    let mut input = Bytes::copy_from_slice(bytes);
    let mut found = Vec::new();
    while let Some(inbound) = decoder.decode(&mut input)? {
        found.push(inbound);
    }
    assert!(input.is_empty());
    Ok(found)
}

fn decode(frames: &[Vec<u8>]) -> Result<Vec<Inbound>, InboundError> {
    decode_all(&mut decoder(), &frames.concat())
}

fn refused_with(frames: &[Vec<u8>]) -> Option<u16> {
    decode(frames).err().and_then(|error| error.close_frame()).map(|close| close.code)
}

fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    client_frame(first, payload, MASK)
}

/// RFC 6455, section 5.7, the example of a client.
#[test]
fn reads_the_example_of_the_standard() {
    let found = decode(&[vec![0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58]]);
    assert_eq!(found.ok(), Some(vec![Inbound::Text("Hello".into())]));
}

#[test]
fn joins_fragments_and_lets_control_frames_between_them() {
    let found = decode(&[
        frame(0x01, b"Hel"),
        frame(0x89, b"ping"),
        frame(0x00, b""),
        frame(0x8a, b""),
        frame(0x80, b"lo"),
        frame(0x82, b"\xff"),
        frame(0x88, b""),
    ]);
    let expected = vec![
        Inbound::Ping(Bytes::from_static(b"ping")),
        Inbound::Pong(Bytes::new()),
        Inbound::Text("Hello".into()),
        Inbound::Binary(Bytes::from_static(b"\xff")),
        Inbound::Close(None),
    ];
    assert_eq!(found.ok(), Some(expected));
}

#[test]
fn text_must_be_utf8_as_a_whole_not_fragment_by_fragment() {
    let euro = "€".as_bytes();
    let found = decode(&[frame(0x01, &euro[..1]), frame(0x00, &euro[1..2]), frame(0x80, &euro[2..])]);
    assert_eq!(found.ok(), Some(vec![Inbound::Text("€".into())]));
    assert_eq!(refused_with(&[frame(0x81, b"\xc3\x28")]), Some(1007));
    assert_eq!(refused_with(&[frame(0x01, &euro[..1]), frame(0x80, &euro[..1])]), Some(1007));
    assert_eq!(refused_with(&[frame(0x81, &euro[..2])]), Some(1007));
}

/// RFC 6455, section 8.1: the rest of a text that is beyond repair is not waited for.
#[test]
fn a_text_that_cannot_become_utf8_is_refused_before_its_end() {
    let begun = |text: &[u8]| {
        let mut bytes = client_header(0x01, 100, MASK);
        bytes.extend(text.iter().zip(MASK.iter().cycle()).map(|(byte, key)| byte ^ key));
        bytes
    };
    // A stray continuation byte, an overlong form, a surrogate, beyond U+10FFFF; each after a good beginning.
    for wrong in [&b"\x80"[..], b"\xc0\xaf", b"\xed\xa0\x80", b"\xf4\x90\x80\x80"] {
        let text = ["κόσμε".as_bytes(), wrong].concat();
        assert_eq!(refused_with(&[begun(&text)]), Some(1007), "at once: {wrong:x?}");
        let mut decoder = decoder();
        let one_by_one = begun(&text).into_iter().try_for_each(|byte| decode_all(&mut decoder, &[byte]).map(|_| ()));
        assert!(matches!(one_by_one, Err(InboundError::NotUtf8)), "byte by byte: {wrong:x?}");
        let fragments: Vec<_> = text.iter().enumerate().map(|(n, byte)| frame(u8::from(n == 0), &[*byte])).collect();
        assert_eq!(refused_with(&fragments), Some(1007), "in fragments: {wrong:x?}");
    }
    assert_eq!(decode(&[begun("€".as_bytes().split_last().expect("bytes").1)]).ok(), Some(vec![]), "may become a text");
}

#[test]
fn violations_are_refused_with_1002() {
    let cases: [(&str, Vec<Vec<u8>>); 14] = [
        ("rsv1", vec![frame(FIN | 0x41, b"a")]),
        ("rsv2", vec![frame(FIN | 0x21, b"a")]),
        ("rsv3", vec![frame(FIN | 0x11, b"a")]),
        ("opcode 3", vec![frame(FIN | 0x3, b"")]),
        ("opcode 11", vec![frame(FIN | 0xb, b"")]),
        ("not masked", vec![b"\x81\x01a".to_vec()]),
        ("fragmented ping", vec![frame(0x09, b"")]),
        ("long ping", vec![frame(0x89, &[0; 126])]),
        ("long close", vec![frame(0x88, &[0; 200])]),
        ("continuation of nothing", vec![frame(0x80, b"a")]),
        ("continuation after the end", vec![frame(0x81, b"a"), frame(0x80, b"b")]),
        ("message in a message", vec![frame(0x01, b"a"), frame(0x81, b"b")]),
        ("length of 64 bits", vec![client_header(0x82, u64::MAX, MASK)]),
        ("close with half a code", vec![frame(0x88, b"\x03")]),
    ];
    for (name, frames) in cases {
        assert_eq!(refused_with(&frames), Some(1002), "{name}");
    }
}

#[test]
fn close_frames_carry_a_permitted_code_and_a_text() {
    let close = |code: u16, reason: &[u8]| frame(0x88, &[&code.to_be_bytes()[..], reason].concat());
    for code in [1000, 1003, 1007, 1011, 1014, 3000, 4101, 4999] {
        let found = decode(&[close(code, "weg".as_bytes())]);
        assert_eq!(found.ok(), Some(vec![Inbound::Close(Some(CloseFrame::new(code, "weg")))]), "{code}");
    }
    for code in [0, 999, 1004, 1005, 1006, 1015, 1100, 2000, 2999, 5000, 65_535] {
        assert_eq!(refused_with(&[close(code, b"")]), Some(1002), "{code}");
    }
    assert_eq!(refused_with(&[close(1000, b"\xff")]), Some(1007));
}

#[test]
fn a_violation_is_seen_before_the_payload() {
    for start in [[0xc1, 0x80], [0x81, 0x01], [0x89, 0xfe]] {
        assert!(decoder().decode(&mut Bytes::copy_from_slice(&start)).is_err(), "{start:?}");
    }
}

#[test]
fn a_declared_length_over_the_limit_is_refused_without_buffering() {
    let mut decoder = decoder();
    let error = decode_all(&mut decoder, &client_header(0x82, 2 << 30, MASK)).expect_err("too big");
    assert!(matches!(error, InboundError::TooBig { declared: 0x8000_0000, limit: 65_536 }));
    assert_eq!(error.close_frame().map(|close| close.code), Some(1009));
    assert_eq!((decoder.message.capacity(), decoder.control.capacity()), (0, 0));
}

#[test]
fn an_announced_message_takes_no_memory_until_it_comes() {
    let mut decoder = decoder();
    assert_eq!(decode_all(&mut decoder, &client_header(0x82, 65_536, MASK)).ok(), Some(vec![]));
    assert_eq!(decoder.message.capacity(), 0);
    assert_eq!(decode_all(&mut decoder, &[0; 100]).ok(), Some(vec![]));
    assert!(decoder.message.capacity() < 1024);
}

#[test]
fn the_limit_holds_for_all_fragments_together() {
    let half = vec![0; 32 * 1024];
    let exactly = [frame(0x02, &half), frame(0x80, &half)];
    assert!(decode(&exactly).is_ok());
    assert_eq!(refused_with(&[frame(0x02, &half), frame(0x00, &half), frame(0x80, b"x")]), Some(1009));
}

#[test]
fn fragments_are_counted_empty_ones_too() {
    let fragments = |count| {
        let mut frames = vec![frame(0x00, b""); count];
        frames[0] = frame(0x01, b"");
        frames[count - 1] = frame(0x80, b"");
        frames
    };
    assert_eq!(decode(&fragments(100)).ok(), Some(vec![Inbound::Text("".into())]));
    assert_eq!(refused_with(&fragments(101)), Some(4008));
}

#[test]
fn an_idle_decoder_holds_nothing() {
    let mut decoder = decoder();
    let bytes = [frame(0x01, &[b'x'; 5000]), frame(0x89, b"p"), frame(0x80, b"")].concat();
    assert_eq!(decode_all(&mut decoder, &bytes).map(|found| found.len()).ok(), Some(2));
    assert_eq!((decoder.message.capacity(), decoder.control.capacity()), (0, 0));
}

/// What a client says: a message in fragments, or a control frame.
#[derive(Debug, Clone)]
struct Said {
    bytes: Vec<u8>,
    means: Inbound,
}

fn said() -> impl Strategy<Value = Said> {
    let payload = prop_oneof![
        8 => prop::collection::vec(any::<u8>(), 0..40),
        1 => prop::collection::vec(any::<u8>(), 120..300),
        1 => prop::collection::vec(any::<u8>(), 20_000..20_001),
    ];
    let message = (payload, prop::collection::vec(any::<prop::sample::Index>(), 0..4), any::<[u8; 4]>()).prop_map(
        |(payload, cuts, mask)| {
            let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(payload.len() + 1)).collect();
            cuts.extend([0, payload.len()]);
            cuts.sort_unstable();
            let count = cuts.len() - 1;
            let fragments = cuts.windows(2).enumerate().map(|(k, cut)| {
                let opcode = if k == 0 { 0x02 } else { 0x00 };
                let fin = if k + 1 == count { FIN } else { 0 };
                client_frame(opcode | fin, &payload[cut[0]..cut[1]], mask)
            });
            Said { bytes: fragments.collect::<Vec<_>>().concat(), means: Inbound::Binary(payload.into()) }
        },
    );
    let text = (".{0,50}", any::<[u8; 4]>()).prop_map(|(text, mask)| Said {
        bytes: client_frame(0x81, text.as_bytes(), mask),
        means: Inbound::Text(text.into()),
    });
    let ping = (prop::collection::vec(any::<u8>(), 0..126), any::<[u8; 4]>()).prop_map(|(payload, mask)| Said {
        bytes: client_frame(0x89, &payload, mask),
        means: Inbound::Ping(payload.into()),
    });
    prop_oneof![4 => message, 3 => text, 2 => ping]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// However the stream is cut into chunks, the same messages come out.
    #[test]
    fn chunks_do_not_matter(
        said in prop::collection::vec(said(), 0..8),
        chunks in prop::collection::vec(prop_oneof![1..4usize, 1..50usize, 1..5000usize], 1..50),
    ) {
        let bytes: Vec<u8> = said.iter().flat_map(|s| s.bytes.clone()).collect();
        let mut decoder = decoder();
        let (mut rest, mut found) = (&bytes[..], Vec::new());
        for size in chunks.iter().cycle() {
            let (chunk, after) = rest.split_at((*size).min(rest.len()));
            found.extend(decode_all(&mut decoder, chunk).expect("valid frames"));
            rest = after;
            if rest.is_empty() {
                break;
            }
        }
        let meant: Vec<_> = said.into_iter().map(|s| s.means).collect();
        prop_assert_eq!(found, meant);
    }

    /// Nothing a client sends makes the decoder panic or hold more than the limit.
    #[test]
    fn noise_is_survived(noise in prop::collection::vec(any::<u8>(), 0..400)) {
        let mut decoder = decoder();
        let mut input = Bytes::from(noise);
        while let Ok(Some(_)) = decoder.decode(&mut input) {}
        prop_assert!(decoder.message.len() <= 64 * 1024 && decoder.control.len() <= 125);
    }
}
