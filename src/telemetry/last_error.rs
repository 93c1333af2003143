//! Why a part that the process depends on does not work.

/// The last error of the store or of the bus.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LastError {
    /// The name of its kind.
    pub kind: &'static str,
    /// An explanation for any caller.
    pub meaning: &'static str,
    /// Its own message in one line, for operators only.
    pub message: String,
}
