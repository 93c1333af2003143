//! Server-sent events, split into blocks.

use memchr::memmem;

/// Splits a byte stream into blocks, however it is cut.
#[derive(Default)]
pub struct Blocks {
    /// The beginning of a block whose end has not come.
    begun: Vec<u8>,
}

impl Blocks {
    /// Calls `each` with every block that has data; the others are heartbeats and advice.
    pub fn feed(&mut self, input: &[u8], mut each: impl FnMut(&[u8])) {
        let mut rest = input;
        if !self.begun.is_empty() {
            let seam = self.begun.len() - 1;
            self.begun.extend_from_slice(input);
            let Some(end) = end_of_block(&self.begun[seam..]) else { return };
            take(&self.begun[..seam + end], &mut each);
            rest = &input[input.len() - (self.begun.len() - seam - end)..];
            self.begun.clear();
        }
        while let Some(end) = end_of_block(rest) {
            take(&rest[..end], &mut each);
            rest = &rest[end..];
        }
        self.begun.extend_from_slice(rest);
    }
}

fn end_of_block(text: &[u8]) -> Option<usize> {
    memmem::find(text, b"\n\n").map(|at| at + 2)
}

fn take(block: &[u8], each: &mut impl FnMut(&[u8])) {
    if memmem::find(block, b"\ndata: ").is_some() {
        each(block);
    }
}
