//! The shared suite on this runtime.

masque_adapter_kit::conformance_suite!(masque_adapter_mio);
