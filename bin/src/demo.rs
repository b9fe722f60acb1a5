//! stub
use crate::exit::Failure;
/// stub
#[derive(Debug,clap::Args)]
pub struct DemoArgs{}
/// stub
pub fn run<R>(_:&DemoArgs)->Result<(),Failure>{Ok(())}
