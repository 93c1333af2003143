//! The other side: frames as a client writes them.

/// A masked frame; `first` is its first byte (FIN, reserved bits, opcode).
pub(super) fn client_frame(first: u8, payload: &[u8], mask: [u8; 4]) -> Vec<u8> {
    let mut frame = client_header(first, payload.len() as u64, mask);
    frame.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, key)| byte ^ key));
    frame
}

/// The header of a masked frame that declares `length` bytes.
pub(super) fn client_header(first: u8, length: u64, mask: [u8; 4]) -> Vec<u8> {
    let mut header = vec![first];
    match length {
        0..=125 => header.push(0x80 | length as u8),
        126..=0xffff => {
            header.push(0x80 | 126);
            header.extend((length as u16).to_be_bytes());
        }
        _ => {
            header.push(0x80 | 127);
            header.extend(length.to_be_bytes());
        }
    }
    header.extend(mask);
    header
}
