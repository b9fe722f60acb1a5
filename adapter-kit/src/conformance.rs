//! What every adapter must do (feature `conformance`).
//!
//! Each function of [`suite`] is one test over a [`Runner`]; [`crate::conformance_suite!`] makes them
//! tests of the adapter's crate. A server and a client run on threads of their own, with UDP over
//! loopback and memory devices, so no privilege is needed and the code path is the real one.

pub mod packets;
mod peers;
pub mod suite;

use crate::app::App;
use crate::error::Error;
use crate::io::Descriptors;
use crate::pump::Pump;

/// An adapter: something that runs a pump to its end.
pub trait Runner: Copy + Send + 'static {
    /// Runs it on this thread and gives it back.
    ///
    /// # Errors
    /// As the adapter's `run`.
    fn run<A: App, I: Descriptors>(self, pump: Pump<A, I>) -> Result<Pump<A, I>, Error>;
}

/// Makes the suite tests of a crate: `conformance_suite!(masque_adapter_mio);` for an adapter with a
/// function `run`.
#[macro_export]
macro_rules! conformance_suite {
    ($adapter:ident) => {
        #[derive(Clone, Copy)]
        struct Adapter;

        impl $crate::conformance::Runner for Adapter {
            fn run<A: $crate::App, I: $crate::Descriptors>(
                self,
                pump: $crate::Pump<A, I>,
            ) -> Result<$crate::Pump<A, I>, $crate::Error> {
                $adapter::run(pump)
            }
        }

        $crate::conformance_suite!(@tests
            packets_cross_both_ways_unchanged_and_in_order
            packets_cross_without_any_offload
            super_packets_cross_devices_with_a_header
            a_device_that_is_not_read_loses_packets_and_stops_nothing
            a_socket_that_blocks_now_and_then_loses_nothing
            the_loop_keeps_an_idle_connection_alive
            the_loop_notices_by_itself_that_the_peer_is_gone
            deadlines_of_the_application_come_and_never_early
            messages_wake_an_idle_loop_and_keep_their_order
            an_idle_loop_sleeps
            an_idle_tunnel_sleeps
            the_loop_stops_at_once_when_told_from_outside
            the_loop_stops_when_its_device_is_gone
            sockets_come_and_go_while_the_loop_runs
        );
    };
    (@tests $($name:ident)*) => {
        $(
            #[test]
            fn $name() {
                $crate::conformance::suite::$name(Adapter);
            }
        )*
    };
}
