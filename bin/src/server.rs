//! stub
use std::path::Path;use crate::exit::Failure;
/// stub
pub fn run<R>(_:&Path)->Result<(),Failure>{Ok(())}
