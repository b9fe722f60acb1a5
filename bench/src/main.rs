//! `masque-bench`: see `--help`.

use std::process::ExitCode;

fn main() -> ExitCode {
    masque_bench::cli::main()
}
