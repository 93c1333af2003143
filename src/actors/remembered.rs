//! What Redis remembers of the log, for the writer that opens the store for the first time.

use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

use crate::domain::log::Seen;

/// See the module. Told once.
#[derive(Debug, Default)]
pub struct Remembered {
    word: Mutex<Option<Word>>,
    told: Condvar,
}

#[derive(Debug, Clone, Copy)]
enum Word {
    Says(Option<Seen>),
    Fails,
}

impl Remembered {
    /// The newest event that Redis remembers, if it does.
    pub fn tell(&self, seen: Option<Seen>) {
        self.say(Word::Says(seen));
    }

    /// Redis has not answered.
    pub fn fail(&self) {
        self.say(Word::Fails);
    }

    fn say(&self, word: Word) {
        self.word.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(word);
        self.told.notify_all();
    }

    /// Waits for the answer of Redis; blocks. `None`: there was none in time.
    pub fn wait(&self, patience: Duration) -> Option<Option<Seen>> {
        let word = self.word.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.told.wait_timeout_while(word, patience, |word| word.is_none());
        match *waited.unwrap_or_else(PoisonError::into_inner).0 {
            Some(Word::Says(seen)) => Some(seen),
            Some(Word::Fails) | None => None,
        }
    }
}
