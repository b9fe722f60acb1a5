//! How to see a failure again: said when a thread panics.

use std::cell::RefCell;
use std::panic;
use std::sync::Once;

thread_local! {
    static COMMAND: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// From now on, a panic of this thread also prints this command; `None` prints nothing.
///
/// A hook and not a value that is dropped: where panics abort, nothing is dropped.
pub fn reproduce_with(command: Option<String>) {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            before(info);
            // A thread that is ending may have lost it already.
            let command = COMMAND.try_with(|command| command.borrow().clone());
            if let Ok(Some(command)) = command {
                eprintln!("to see it again: {command}");
            }
        }));
    });
    COMMAND.with(|place| *place.borrow_mut() = command);
}
