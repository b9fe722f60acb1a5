//! How to see a failure again: said when a thread panics.

use std::any::Any;
use std::cell::RefCell;
use std::panic::{self, AssertUnwindSafe, catch_unwind};
use std::sync::Once;

thread_local! {
    static COMMAND: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// From now on, a panic of this thread also prints this command; `None` prints nothing.
///
/// A hook and not a value that is dropped: where panics abort, nothing is dropped.
fn reproduce_with(command: Option<String>) {
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

/// Runs it. A panic also prints `command`, which shows it again: where panics abort, that is all that is
/// left of it.
///
/// # Errors
/// The words of the panic.
pub fn attempt<T>(command: &str, run: impl FnOnce() -> T) -> Result<T, String> {
    reproduce_with(Some(command.to_owned()));
    let result = catch_unwind(AssertUnwindSafe(run));
    reproduce_with(None);
    result.map_err(|payload| message(&*payload))
}

fn message(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| payload.downcast_ref::<&str>().copied());
    text.unwrap_or("a panic without words").to_owned()
}
