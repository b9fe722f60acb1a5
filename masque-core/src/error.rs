//! The first of the four kinds of fault: the bytes are wrong.
//!
//! Every [`WireErrorKind`] maps, in one table ([`WireErrorKind::code`], [`WireErrorKind::scope`]),
//! to an HTTP/3 error code and to what that code closes.

use core::fmt;

/// An HTTP/3, QPACK or HTTP Datagram error code (RFC 9114 §8.1, RFC 9204 §6, RFC 9297 §5.2).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct H3Code(pub u64);

macro_rules! codes {
    ($($(#[$m:meta])* $name:ident = $value:literal, $text:literal;)*) => {
        impl H3Code {
            $($(#[$m])* #[doc = concat!("`", $text, "`")] pub const $name: Self = Self($value);)*

            /// The registered name of the code, if it has one.
            #[must_use]
            pub const fn name(self) -> Option<&'static str> {
                match self.0 { $($value => Some($text),)* _ => None }
            }
        }
    };
}

codes! {
    DATAGRAM_ERROR = 0x33, "H3_DATAGRAM_ERROR";
    NO_ERROR = 0x100, "H3_NO_ERROR";
    GENERAL_PROTOCOL_ERROR = 0x101, "H3_GENERAL_PROTOCOL_ERROR";
    INTERNAL_ERROR = 0x102, "H3_INTERNAL_ERROR";
    STREAM_CREATION_ERROR = 0x103, "H3_STREAM_CREATION_ERROR";
    CLOSED_CRITICAL_STREAM = 0x104, "H3_CLOSED_CRITICAL_STREAM";
    FRAME_UNEXPECTED = 0x105, "H3_FRAME_UNEXPECTED";
    FRAME_ERROR = 0x106, "H3_FRAME_ERROR";
    EXCESSIVE_LOAD = 0x107, "H3_EXCESSIVE_LOAD";
    ID_ERROR = 0x108, "H3_ID_ERROR";
    SETTINGS_ERROR = 0x109, "H3_SETTINGS_ERROR";
    MISSING_SETTINGS = 0x10a, "H3_MISSING_SETTINGS";
    REQUEST_REJECTED = 0x10b, "H3_REQUEST_REJECTED";
    REQUEST_CANCELLED = 0x10c, "H3_REQUEST_CANCELLED";
    REQUEST_INCOMPLETE = 0x10d, "H3_REQUEST_INCOMPLETE";
    MESSAGE_ERROR = 0x10e, "H3_MESSAGE_ERROR";
    CONNECT_ERROR = 0x10f, "H3_CONNECT_ERROR";
    VERSION_FALLBACK = 0x110, "H3_VERSION_FALLBACK";
    QPACK_DECOMPRESSION_FAILED = 0x200, "QPACK_DECOMPRESSION_FAILED";
    QPACK_ENCODER_STREAM_ERROR = 0x201, "QPACK_ENCODER_STREAM_ERROR";
    QPACK_DECODER_STREAM_ERROR = 0x202, "QPACK_DECODER_STREAM_ERROR";
}

impl fmt::Display for H3Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "{:#x}", self.0),
        }
    }
}

impl fmt::Debug for H3Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What an error closes: one request stream, or the whole HTTP/3 connection.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum ErrorScope {
    /// Reset the sending part and stop the receiving part of one stream; its siblings live on.
    Stream,
    /// Close the connection.
    Connection,
}

/// Bytes that no legal peer sends: what is wrong, and where.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{kind} at byte {offset}")]
pub struct WireError {
    /// What is wrong.
    pub kind: WireErrorKind,
    /// The byte at which it was found, counted from the first byte the decoder was given.
    pub offset: usize,
}

impl WireError {
    /// An error of `kind` found at byte `offset`.
    #[must_use]
    pub const fn new(kind: WireErrorKind, offset: usize) -> Self {
        Self { kind, offset }
    }

    /// The HTTP/3 error code that answers it.
    #[must_use]
    pub const fn code(&self) -> H3Code {
        self.kind.code()
    }

    /// What that code closes.
    #[must_use]
    pub const fn scope(&self) -> ErrorScope {
        self.kind.scope()
    }

    /// The same error, found `by` bytes later in an enclosing input.
    #[must_use]
    pub const fn shifted(self, by: usize) -> Self {
        Self {
            kind: self.kind,
            offset: self.offset + by,
        }
    }
}

macro_rules! kinds {
    ($($(#[$m:meta])* $name:ident => $scope:ident $code:ident, $text:literal;)*) => {
        /// What can be wrong with bytes. The table of codes and scopes is this list.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        pub enum WireErrorKind { $($(#[$m])* #[doc = $text] $name,)* }

        impl WireErrorKind {
            /// Every kind, for tests that walk the table.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The error code a peer is told.
            #[must_use]
            pub const fn code(self) -> H3Code {
                match self { $(Self::$name => H3Code::$code,)* }
            }

            /// What the code closes.
            #[must_use]
            pub const fn scope(self) -> ErrorScope {
                match self { $(Self::$name => ErrorScope::$scope,)* }
            }
        }

        impl fmt::Display for WireErrorKind {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self { $(Self::$name => $text,)* })
            }
        }
    };
}

kinds! {
    // frames and streams (RFC 9114 §7, §6.2)
    FrameLength => Connection FRAME_ERROR, "frame payload and its length disagree";
    FrameTruncated => Connection FRAME_ERROR, "stream ended inside a frame";
    FrameUnexpected => Connection FRAME_UNEXPECTED, "frame type not allowed here";
    Burden => Connection EXCESSIVE_LOAD, "too much that is of no use";
    FrameTooLarge => Connection EXCESSIVE_LOAD, "frame larger than the limit for its type";
    MissingSettings => Connection MISSING_SETTINGS, "first frame on the control stream is not SETTINGS";
    SettingsReserved => Connection SETTINGS_ERROR, "setting reserved by HTTP/2";
    SettingsValue => Connection SETTINGS_ERROR, "setting value out of range";
    SettingsDuplicate => Connection SETTINGS_ERROR, "setting given twice";
    SettingsDowngrade => Connection SETTINGS_ERROR, "setting contradicts the transport parameters";
    GoAwayId => Connection ID_ERROR, "GOAWAY identifier invalid or grown";
    PushId => Connection ID_ERROR, "push identifier never granted";
    StreamCreation => Connection STREAM_CREATION_ERROR, "stream that this peer must not open";
    CriticalStreamClosed => Connection CLOSED_CRITICAL_STREAM, "control or QPACK stream closed";
    // QPACK (RFC 9204)
    QpackTruncated => Connection QPACK_DECOMPRESSION_FAILED, "field section ends inside a field line";
    QpackInteger => Connection QPACK_DECOMPRESSION_FAILED, "prefix integer over 62 bits";
    QpackDynamic => Connection QPACK_DECOMPRESSION_FAILED, "reference to the dynamic table, whose capacity is 0";
    QpackStaticIndex => Connection QPACK_DECOMPRESSION_FAILED, "static table index above 98";
    QpackHuffman => Connection QPACK_DECOMPRESSION_FAILED, "invalid Huffman code or padding";
    QpackEncoderStream => Connection QPACK_ENCODER_STREAM_ERROR, "encoder instruction that capacity 0 forbids";
    QpackDecoderStream => Connection QPACK_DECODER_STREAM_ERROR, "decoder instruction for an entry that does not exist";
    // messages (RFC 9114 §4, RFC 9220, RFC 9297 §3, RFC 9484 §4)
    FieldName => Stream MESSAGE_ERROR, "field name empty, upper-case or not a token";
    FieldValue => Stream MESSAGE_ERROR, "field value with forbidden bytes";
    FieldSectionTooLarge => Stream EXCESSIVE_LOAD, "field section larger than the limit";
    PseudoHeader => Stream MESSAGE_ERROR, "pseudo-header missing, repeated, unknown or misplaced";
    PseudoHeaderValue => Stream MESSAGE_ERROR, "pseudo-header value not allowed";
    ConnectionField => Stream MESSAGE_ERROR, "connection-specific field";
    ContentField => Stream MESSAGE_ERROR, "content field on a message that uses the capsule protocol";
    HostMismatch => Stream MESSAGE_ERROR, "Host and :authority differ";
    StatusNotAllowed => Stream MESSAGE_ERROR, "status code not allowed for the capsule protocol";
    RequestIncomplete => Stream REQUEST_INCOMPLETE, "stream ended before the request was complete";
    ScopeMalformed => Stream MESSAGE_ERROR, "target or ipproto is not what RFC 9484 §4.6 allows";
    // capsules (RFC 9297 §3.3, RFC 9484 §4.7)
    CapsuleTruncated => Stream MESSAGE_ERROR, "stream ended inside a capsule";
    CapsuleLength => Stream MESSAGE_ERROR, "capsule value ends inside an entry";
    CapsuleTooLarge => Stream EXCESSIVE_LOAD, "capsule larger than the limit";
    CapsuleTooMany => Stream EXCESSIVE_LOAD, "more entries than the limit";
    IpVersion => Stream MESSAGE_ERROR, "IP version neither 4 nor 6";
    PrefixLength => Stream MESSAGE_ERROR, "prefix length beyond the address";
    HostBits => Stream MESSAGE_ERROR, "bits set below the prefix";
    RequestIdZero => Stream MESSAGE_ERROR, "Request ID 0 in ADDRESS_REQUEST";
    RequestIdReused => Stream MESSAGE_ERROR, "Request ID used twice";
    EmptyRequest => Stream MESSAGE_ERROR, "ADDRESS_REQUEST without an entry";
    RangeReversed => Stream MESSAGE_ERROR, "address range that starts after its end";
    RangeOrder => Stream MESSAGE_ERROR, "address ranges overlapping or out of order";
    // datagrams (RFC 9297 §2.1)
    QuarterStreamId => Connection DATAGRAM_ERROR, "quarter stream ID cut or over 2^60-1";
    DatagramSemantics => Stream DATAGRAM_ERROR, "datagram for a request without datagram semantics";
}
