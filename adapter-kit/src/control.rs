//! Messages from other threads into the loop.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::event::{EventfdFlags, eventfd};

/// Sends messages to the application in a running loop and wakes it. Cheap to clone, usable from any
/// thread; never blocks but for a short lock.
pub struct Controller<M> {
    shared: Arc<Shared<M>>,
}

struct Shared<M> {
    queue: Mutex<Queue<M>>,
    event: OwnedFd,
}

struct Queue<M> {
    messages: VecDeque<M>,
    stop: bool,
    closed: bool,
}

impl<M> Clone for Controller<M> {
    fn clone(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
        }
    }
}

impl<M> std::fmt::Debug for Controller<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Controller").finish_non_exhaustive()
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
        let first = {
            let mut queue = self.shared.lock();
            if queue.closed {
                return Err(SendError::Closed(message));
            }
            if queue.messages.len() >= Self::CAPACITY {
                return Err(SendError::Full(message));
            }
            queue.messages.push_back(message);
            queue.messages.len() == 1
        };
        if first {
            self.shared.wake();
        }
        Ok(())
    }

    /// Ends the loop after its next turn, as [`crate::Cx::stop`] does.
    pub fn stop(&self) {
        self.shared.lock().stop = true;
        self.shared.wake();
    }

    /// Whether the pump is gone.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.shared.lock().closed
    }
}

impl<M> Shared<M> {
    fn lock(&self) -> MutexGuard<'_, Queue<M>> {
        // Nothing panics while it is held, and a queue is whole after every step.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self) {
        // Fails only where the counter is full, and then the loop is awake.
        let _ = rustix::io::write(&self.event, &1u64.to_ne_bytes());
    }
}

/// The loop's end of the channel.
pub(crate) struct Inbox<M> {
    shared: Arc<Shared<M>>,
    taken: VecDeque<M>,
}

impl<M> Inbox<M> {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self {
            shared: Arc::new(Shared {
                queue: Mutex::new(Queue {
                    messages: VecDeque::new(),
                    stop: false,
                    closed: false,
                }),
                event: eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?,
            }),
            taken: VecDeque::new(),
        })
    }

    pub(crate) fn controller(&self) -> Controller<M> {
        Controller {
            shared: Arc::clone(&self.shared),
        }
    }

    /// After a wake-up: takes over what was sent; `true` if the loop is to stop.
    pub(crate) fn collect(&mut self) -> bool {
        // Before the queue is emptied: what comes in between wakes the loop once more.
        let mut count = [0; 8];
        let _ = rustix::io::read(&self.shared.event, &mut count[..]);
        let mut queue = self.shared.lock();
        if self.taken.is_empty() {
            std::mem::swap(&mut self.taken, &mut queue.messages);
        } else {
            self.taken.append(&mut queue.messages);
        }
        queue.stop
    }

    pub(crate) fn next(&mut self) -> Option<M> {
        self.taken.pop_front()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.taken.is_empty()
    }
}

impl<M> Drop for Inbox<M> {
    fn drop(&mut self) {
        let mut queue = self.shared.lock();
        queue.closed = true;
        queue.messages.clear();
    }
}

impl<M> AsFd for Inbox<M> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.shared.event.as_fd()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_of_one_thread_arrive_in_order_and_none_is_lost() {
        let mut inbox = Inbox::new().expect("eventfd");
        let threads: Vec<_> = (0..4u32)
            .map(|thread| {
                let controller = inbox.controller();
                std::thread::spawn(move || {
                    for number in 0..5_000u32 {
                        let mut message = (thread, number);
                        while let Err(SendError::Full(back)) = controller.send(message) {
                            message = back;
                            std::thread::yield_now();
                        }
                    }
                })
            })
            .collect();
        let mut next = [0; 4];
        while next != [5_000; 4] {
            let mut fds = [rustix::event::PollFd::new(
                &inbox,
                rustix::event::PollFlags::IN,
            )];
            rustix::event::poll(&mut fds, None).expect("poll");
            assert!(!inbox.collect());
            while let Some((thread, number)) = inbox.next() {
                let expected = &mut next[thread as usize];
                assert_eq!(number, *expected);
                *expected += 1;
            }
        }
        for thread in threads {
            thread.join().expect("no panic");
        }
    }

    #[test]
    fn a_full_queue_and_a_gone_loop_hand_the_message_back() {
        let inbox = Inbox::new().expect("eventfd");
        let controller = inbox.controller();
        for number in 0..Controller::<usize>::CAPACITY {
            assert_eq!(controller.send(number), Ok(()));
        }
        assert_eq!(controller.send(7), Err(SendError::Full(7)));
        drop(inbox);
        assert!(controller.is_closed());
        assert_eq!(controller.send(8), Err(SendError::Closed(8)));
    }
}
