//! Which of several processes acts for a service or a consumer.

/// What the store says to a process that asks for a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Grant {
    /// The process had the lease and has it still.
    Kept,
    /// The process has the lease from now on. Another may have had it meanwhile.
    Taken,
    /// Another process has it.
    Elsewhere,
}

/// A lease as a process knows it. `H` is what only a holder has.
#[derive(Debug, Default)]
pub enum Lease<H> {
    /// Another process acts, or none that is known.
    #[default]
    Follower,
    /// This process acts, and no other.
    Holder(H),
}

/// What a [`Grant`] means to a process that knows how its lease was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// It holds the lease as before, and nobody has held it meanwhile.
    Kept,
    /// It has held the lease and holds it again. Another may have held it meanwhile.
    Regained,
    Gained,
    Lost,
    /// It follows as before.
    Elsewhere,
}

/// Whether a holder may change what is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Confidence {
    Certain,
    /// A write has failed since the store was asked: another process may have held the lease meanwhile.
    InDoubt,
}

impl<H> Lease<H> {
    /// What `grant` means. The lease is to be set accordingly.
    pub fn turn(&self, grant: Grant) -> Turn {
        match (self, grant) {
            (Self::Holder(_), Grant::Kept) => Turn::Kept,
            (Self::Holder(_), Grant::Taken) => Turn::Regained,
            (Self::Holder(_), Grant::Elsewhere) => Turn::Lost,
            (Self::Follower, Grant::Kept | Grant::Taken) => Turn::Gained,
            (Self::Follower, Grant::Elsewhere) => Turn::Elsewhere,
        }
    }

    pub fn is_held(&self) -> bool {
        matches!(self, Self::Holder(_))
    }

    /// What it has as the holder.
    pub fn holder(&self) -> Option<&H> {
        if let Self::Holder(holder) = self { Some(holder) } else { None }
    }

    pub fn holder_mut(&mut self) -> Option<&mut H> {
        if let Self::Holder(holder) = self { Some(holder) } else { None }
    }
}

impl Lease<Confidence> {
    /// After the store has answered `grant`, which ends all doubt.
    pub fn of(grant: Grant) -> Self {
        match grant {
            Grant::Kept | Grant::Taken => Self::Holder(Confidence::Certain),
            Grant::Elsewhere => Self::Follower,
        }
    }

    /// A write has failed.
    pub fn doubt(&mut self) {
        if let Self::Holder(confidence) = self {
            *confidence = Confidence::InDoubt;
        }
    }

    /// Whether the state that is stored is this process's to change.
    pub fn is_certain(&self) -> bool {
        matches!(self, Self::Holder(Confidence::Certain))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_lease_that_was_kept_tells_that_nobody_else_has_acted() {
        let turns =
            |lease: Lease<Confidence>| [Grant::Kept, Grant::Taken, Grant::Elsewhere].map(|grant| lease.turn(grant));
        assert_eq!(turns(Lease::Holder(Confidence::Certain)), [Turn::Kept, Turn::Regained, Turn::Lost]);
        assert_eq!(turns(Lease::Follower), [Turn::Gained, Turn::Gained, Turn::Elsewhere]);
    }

    #[test]
    fn a_failed_write_raises_doubts_until_the_store_has_answered() {
        let mut lease = Lease::of(Grant::Taken);
        assert!(lease.is_held() && lease.is_certain());
        lease.doubt();
        assert!(lease.is_held() && !lease.is_certain());
        lease = Lease::of(Grant::Kept);
        assert!(lease.is_certain());
        lease = Lease::of(Grant::Elsewhere);
        lease.doubt();
        assert!(!lease.is_held() && !lease.is_certain());
    }
}
