//! What masque costs: against other tunnels, against bare quinn-proto, and its runtimes against each
//! other.
//!
//! | what | where | noise |
//! |---|---|---|
//! | whole tunnels between network namespaces, with every peer that is installed | the program `masque-bench` | compare within one run |
//! | two endpoints in memory | [`pipeline`], the program `pipeline`, criterion | little |
//! | the same counted in instructions | `masque-bench instructions` | none to speak of |
//! | codecs and offload functions | criterion | little |

pub mod cli;
pub mod instructions;
pub mod pipeline;
