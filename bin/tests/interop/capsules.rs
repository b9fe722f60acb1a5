//! Capsules that no legal peer sends, as the peer's `--raw-capsule` takes them.

/// What is wrong, and the bytes. Each must make the receiver abort the request stream.
pub(crate) const BAD: &[(&str, &str)] = &[
    // 9484-4.7.1-05
    ("IP version 5", "1:0005c000020120"),
    // 9484-4.7.1-07
    ("prefix longer than the address", "1:0004c000020121"),
    // 9484-4.7.1-08
    ("host bits", "1:0004c000020118"),
    // 9297-3.3-02
    ("half an address", "1:0004c000"),
    // 9484-4.7.2-02
    ("ADDRESS_REQUEST without entries", "2:"),
    // 9484-4.7.2-03
    ("Request ID 0", "2:0004c000020120"),
    // 9484-4.7.2-04
    (
        "the same Request ID twice",
        "2:0104000000002001040000000020",
    ),
    // 9484-4.7.3-03
    (
        "a range that ends before it starts",
        "3:040a0000090a00000100",
    ),
    // 9484-4.7.3-08
    (
        "ranges in the wrong order",
        "3:040a0000000a0000010004090000000900000100",
    ),
    // 9484-4.7.3-08
    (
        "ranges that overlap",
        "3:040a0000000a00000900040a0000050a00001000",
    ),
    // 9484-4.7.3-07
    (
        "protocols in the wrong order",
        "3:040a0000000a00000111040b0000000b00000106",
    ),
    // 9297-3.3-02
    ("half a range", "3:040a"),
];
