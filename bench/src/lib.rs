//! What masque costs: against other tunnels, against bare quinn-proto, and its runtimes against each
//! other.
//!
//! | what | where | noise |
//! |---|---|---|
//! | whole tunnels between network namespaces, with every peer that is installed | the program `masque-bench` | compare within one run |
//! | the same on bad networks: goodput, calls, rivals, handovers | `masque-bench --profiles` | little, while the profiles' rates are the limit |
//! | two endpoints in memory | [`pipeline`], the program `pipeline`, criterion | little |
//! | the same counted in instructions | `masque-bench instructions` | none to speak of |
//! | what runtimes differ in, over loopback and devices in memory | `masque-bench runtimes` | compare within one run |
//! | codecs and offload functions | criterion | little |
//! | very many clients on one server in memory | the programs `scale` and `scale-sites` | little; memory none |

//!
//! | module | what is there |
//! |---|---|
//! | [`lab`] | the namespaces, and the promise that they go away |
//! | [`subject`] | what is measured, one small type each |
//! | [`probe`] | the traffic: processes inside the namespaces |
//! | [`trial`], [`meter`] | the tests, and what the machine used |
//! | [`run`] | the schedule |
//! | [`profiles`] | bad networks, and what tunnels make of them |
//! | [`samples`], [`report`] | raw numbers; tables, goals and plots |
//! | [`runtimes`], [`idiomatic`] | tokio, smol and mio; tunnels of tasks and channels to hold them against |
//! | [`pipeline`], [`instructions`] | the core in memory, timed and counted |
//! | [`hostile`] | a server under attack, in memory |
#![forbid(unsafe_code)]

pub mod cli;
pub mod error;
pub mod hostile;
pub mod idiomatic;
pub mod instructions;
pub mod lab;
pub mod meter;
pub mod pipeline;
pub mod probe;
pub mod profiles;
pub mod report;
pub mod run;
pub mod runtimes;
pub mod samples;
pub mod subject;
pub mod trial;
