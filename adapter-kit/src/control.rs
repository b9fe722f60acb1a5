//! Messages from other threads into the loop.

/// Sends messages to the application in a running loop and wakes it. Cheap to clone, usable from any
/// thread; never blocks but for a short lock.
pub struct Controller<M> {
    _todo: std::marker::PhantomData<fn(M)>,
}

impl<M> Clone for Controller<M> {
    fn clone(&self) -> Self {
        unimplemented!()
    }
}

impl<M> Controller<M> {
    /// The most messages that wait at once.
    pub const CAPACITY: usize = 1024;

    /// Sends a message: [`crate::App::on_message`] gets it in the next turn.
    ///
    /// # Errors
    /// [`SendError`] hands it back.
    pub fn send(&self, message: M) -> Result<(), SendError<M>> {
        let _ = message;
        unimplemented!()
    }

    /// Ends the loop after its next turn, as [`crate::Cx::stop`] does.
    pub fn stop(&self) {
        unimplemented!()
    }

    /// Whether the pump is gone.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        unimplemented!()
    }
}

/// Why a message was not taken.
#[derive(Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SendError<M> {
    /// [`Controller::CAPACITY`] messages wait already.
    #[error("too many messages wait")]
    Full(M),
    /// The pump is gone.
    #[error("the loop has ended")]
    Closed(M),
}

impl<M> std::fmt::Debug for SendError<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Full(_) => "Full",
            Self::Closed(_) => "Closed",
        })
    }
}
