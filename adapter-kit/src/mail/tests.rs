//! Nothing is lost, nothing grows, nobody sleeps over mail.

use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};

use super::*;

/// Who sent it, its number, and its size.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Letter(usize, u32, usize);

impl Parcel for Letter {
    fn bytes(&self) -> usize {
        self.2
    }
}

fn office(shards: u16, items: usize, bytes: usize) -> Vec<PostBox<Letter>> {
    let shards = NonZeroU16::new(shards).expect("not zero");
    post_office(shards, MailLimits { items, bytes }).expect("eventfd")
}

fn woken(post: &PostBox<Letter>, timeout: Duration) -> bool {
    let timeout = timeout.try_into().expect("short");
    poll(&mut [PollFd::new(post, PollFlags::IN)], Some(&timeout)).expect("poll") == 1
}

fn received(post: &mut PostBox<Letter>) -> Vec<u32> {
    post.ring();
    std::iter::from_fn(|| post.take())
        .map(|letter| letter.1)
        .collect()
}

/// Three threads each send to the two others and receive from them, asleep whenever nothing waits. What
/// a full box refuses is sent again, so that every letter has to arrive, once and in order.
#[test]
fn nobody_sleeps_over_mail_and_none_is_lost_doubled_or_moved() {
    const LETTERS: u32 = 20_000;
    let threads: Vec<_> = office(3, 64, usize::MAX)
        .into_iter()
        .map(|mut post| {
            std::thread::spawn(move || {
                let own = post.own;
                let mut next_out = [0; 3];
                let mut next_in = [0; 3];
                next_out[own] = LETTERS;
                next_in[own] = LETTERS;
                let begun = Instant::now();
                while next_out != [LETTERS; 3] || next_in != [LETTERS; 3] {
                    assert!(begun.elapsed() < Duration::from_secs(120), "stuck");
                    let sending = next_out != [LETTERS; 3];
                    for (to, next) in next_out.iter_mut().enumerate() {
                        // Batches of all sizes.
                        for _ in 0..*next % 7 + 1 {
                            if *next < LETTERS {
                                post.put(to, Letter(own, *next, to)).expect("a shard");
                                *next += 1;
                            }
                        }
                    }
                    let mut back = [u32::MAX; 3];
                    post.deliver(|letter| back[letter.2] = back[letter.2].min(letter.1));
                    for (next, back) in next_out.iter_mut().zip(back) {
                        *next = back.min(*next);
                    }
                    // Where nothing is left to send only a wake-up goes on: a lost one shows here.
                    let patience = Duration::from_secs(if sending { 0 } else { 30 });
                    if woken(&post, patience) {
                        post.ring();
                        while let Some(Letter(from, number, _)) = post.take() {
                            assert_eq!(number, next_in[from]);
                            next_in[from] += 1;
                        }
                    } else {
                        assert!(sending, "nobody woke shard {own}: {next_in:?}");
                        std::thread::yield_now();
                    }
                }
                // Until all have got theirs.
                post
            })
        })
        .collect();
    let boxes: Vec<_> = threads.into_iter().map(|thread| thread.join()).collect();
    assert!(boxes.iter().all(Result::is_ok));
}

#[test]
fn a_box_takes_so_many_items_and_hands_back_the_rest() {
    let mut boxes = office(2, 3, 1_000);
    let mut other = boxes.pop().expect("two");
    let mut post = boxes.pop().expect("two");
    for number in 0..5 {
        post.put(1, Letter(0, number, 1)).expect("a shard");
    }
    let mut refused = Vec::new();
    assert_eq!(post.deliver(|letter| refused.push(letter.1)), 3);
    assert_eq!(refused, [3, 4]);
    assert_eq!(received(&mut other), [0, 1, 2]);
    // Empty again.
    post.put(1, Letter(0, 5, 1)).expect("a shard");
    assert_eq!(post.deliver(|_| panic!("it fits")), 1);
    assert_eq!(received(&mut other), [5]);
}

#[test]
fn a_box_takes_so_many_bytes_and_always_one_parcel() {
    let mut boxes = office(2, 100, 1_000);
    let mut other = boxes.pop().expect("two");
    let mut post = boxes.pop().expect("two");
    for (number, bytes) in [(0, 600), (1, 400), (2, 1)] {
        post.put(1, Letter(0, number, bytes)).expect("a shard");
    }
    let mut refused = Vec::new();
    post.deliver(|letter| refused.push(letter.1));
    assert_eq!((received(&mut other), refused), (vec![0, 1], vec![2]));
    post.put(1, Letter(0, 3, 5_000)).expect("a shard");
    assert_eq!(post.deliver(|_| panic!("alone")), 1);
    post.put(1, Letter(0, 4, 0)).expect("a shard");
    let mut refused = Vec::new();
    post.deliver(|letter| refused.push(letter.1));
    assert_eq!((received(&mut other), refused), (vec![3], vec![4]));
}

#[test]
fn a_batch_wakes_once_and_only_where_nothing_waited() {
    let mut boxes = office(2, 100, 1_000);
    let mut other = boxes.pop().expect("two");
    let mut post = boxes.pop().expect("two");
    let mut send = |number| {
        post.put(1, Letter(0, number, 1)).expect("a shard");
        post.put(1, Letter(0, number + 1, 1)).expect("a shard");
        post.deliver(|_| panic!("it fits"));
    };
    assert!(!woken(&other, Duration::ZERO));
    send(0);
    assert!(woken(&other, Duration::ZERO));
    // As a loop does that looks only later: the counter of the eventfd is how often it was written.
    let mut count = [0; 8];
    rustix::io::read(&other, &mut count[..]).expect("readable");
    assert_eq!(u64::from_ne_bytes(count), 1);
    send(2);
    assert!(!woken(&other, Duration::ZERO), "four wait, and it knows");
    assert_eq!(received(&mut other), [0, 1, 2, 3]);
    send(4);
    assert!(woken(&other, Duration::ZERO));
    assert_eq!(received(&mut other), [4, 5]);
    assert!(!woken(&other, Duration::ZERO));
}

/// An edge-triggered reactor tells of the second batch while the first is being handled, and never again.
#[test]
fn what_rings_while_a_batch_is_handled_is_not_forgotten() {
    let mut boxes = office(2, 100, 1_000);
    let mut other = boxes.pop().expect("two");
    let mut post = boxes.pop().expect("two");
    let mut send = |number| {
        post.put(1, Letter(0, number, 1)).expect("a shard");
        post.put(1, Letter(0, number + 1, 1)).expect("a shard");
        post.deliver(|_| panic!("it fits"));
    };
    assert_eq!(other.take(), None);
    send(0);
    assert_eq!(other.take(), None, "not rung for");
    other.ring();
    assert_eq!(other.take().map(|letter| letter.1), Some(0));
    assert!(!other.is_rung());
    send(2);
    assert!(woken(&other, Duration::ZERO));
    other.ring();
    for number in [1, 2, 3] {
        assert!(other.has_mail());
        assert_eq!(other.take().map(|letter| letter.1), Some(number));
    }
    assert!(!other.has_mail());
}

#[test]
fn mail_for_nobody_comes_back() {
    let mut boxes = office(2, 100, 1_000);
    let other = boxes.pop().expect("two");
    let mut post = boxes.pop().expect("two");
    assert_eq!(post.put(2, Letter(0, 0, 1)), Err(Letter(0, 0, 1)));
    drop(other);
    post.put(1, Letter(0, 1, 1)).expect("a shard");
    let mut refused = Vec::new();
    assert_eq!(post.deliver(|letter| refused.push(letter.1)), 0);
    assert_eq!(refused, [1]);
}
