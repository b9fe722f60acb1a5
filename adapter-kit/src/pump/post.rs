//! Mail between the shards of a server.

use std::time::Instant;

use super::Pump;
use crate::app::App;
use crate::io::Io;

impl<A: App, I: Io> Pump<A, I> {
    /// Takes mail of other shards; `true` if there is more.
    pub(super) fn open_mail(&mut self, now: Instant) -> bool {
        let Some(post) = &mut self.post else {
            return false;
        };
        for _ in 0..self.options.mails {
            let Some(mail) = post.take() else {
                break;
            };
            self.counters.mails_received += 1;
            self.endpoint.handle_mail(now, mail);
        }
        post.has_mail()
    }

    /// Hands over what is for other shards.
    pub(super) fn send_mail(&mut self) {
        let Self {
            endpoint,
            post,
            counters,
            ..
        } = self;
        let mut gathered = false;
        while let Some((shard, mail)) = endpoint.poll_mail() {
            let refused = match post {
                Some(post) => post.put(shard.0.into(), mail).err(),
                None => Some(mail),
            };
            gathered |= refused.is_none();
            if let Some(mail) = refused {
                counters.mails_refused += 1;
                endpoint.mail_refused(mail);
            }
        }
        if let Some(post) = post.as_mut().filter(|_| gathered) {
            let sent = post.deliver(|mail| {
                counters.mails_refused += 1;
                endpoint.mail_refused(mail);
            });
            counters.mails_sent += sent as u64;
        }
    }
}
