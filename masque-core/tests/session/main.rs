//! A client and a server session wired back to back, and sessions alone under arbitrary input.

mod alone;
mod burden;
mod ends;
mod pair;
mod props;
mod pump;
mod requests;
mod rules;
