//! A recording as a stream of bytes.
//!
//! A line of text, then records: four bytes of length (little-endian), and so many bytes.

use std::io::{self, Read};

use crate::codec::Malformed;
use crate::record::{Record, Start};

/// How every recording begins; a change of what records hold is another number. What follows the number is for people who look into the file.
pub const MAGIC: &[u8] =
    b"masque recording 1 - holds the secrets of its sessions: keep it private\n";

/// The longest record. A super-packet of 64 KiB fits, and a configuration with many leases.
pub(crate) const MAX_RECORD: usize = 64 << 20;

/// Why a recording cannot be read on.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// Reading failed.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// It is no recording, or one of another version.
    #[error("not a recording of version 1")]
    Magic,
    /// It ends before the endpoint was made.
    #[error("the recording ends before its first input")]
    Empty,
    /// A record is damaged.
    #[error("the record at byte {at} is damaged: {what}")]
    Malformed {
        /// Where its length stands.
        at: u64,
        /// What is wrong.
        what: Malformed,
    },
}

/// Reads records one after another. A last one that is not whole counts as not there: a process that
/// is killed writes no last words.
pub struct Reader<R> {
    from: R,
    /// Where the next record begins.
    at: u64,
    /// The record read last.
    record: Vec<u8>,
    record_at: u64,
    cut: bool,
}

impl<R: Read> Reader<R> {
    /// A recording, and how its endpoint was made.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn new(mut from: R) -> Result<(Self, Start), ReadError> {
        let mut magic = Vec::new();
        from.by_ref()
            .take(MAGIC.len() as u64)
            .read_to_end(&mut magic)?;
        if magic != MAGIC {
            return Err(ReadError::Magic);
        }
        let mut reader = Self {
            from,
            at: MAGIC.len() as u64,
            record: Vec::new(),
            record_at: 0,
            cut: false,
        };
        if !reader.advance()? {
            return Err(ReadError::Empty);
        }
        match reader.record()? {
            Record::Start(start) => Ok((reader, *start)),
            _ => Err(reader.wrong("the first is not how the endpoint was made")),
        }
    }

    /// Goes to the next record; `false` if there is none.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn advance(&mut self) -> Result<bool, ReadError> {
        let mut length = Vec::with_capacity(4);
        self.from.by_ref().take(4).read_to_end(&mut length)?;
        let Ok(length) = <[u8; 4]>::try_from(&length[..]) else {
            self.cut |= !length.is_empty();
            return Ok(false);
        };
        self.record_at = self.at;
        let length = u32::from_le_bytes(length);
        if length as usize > MAX_RECORD {
            return Err(self.wrong("longer than any"));
        }
        self.record.clear();
        // Makes room as bytes come, whatever the length says.
        let read = self
            .from
            .by_ref()
            .take(length.into())
            .read_to_end(&mut self.record);
        if read? < length as usize {
            self.cut = true;
            return Ok(false);
        }
        self.at += 4 + u64::from(length);
        Ok(true)
    }

    /// The record it stands at.
    ///
    /// # Errors
    /// [`ReadError::Malformed`].
    pub fn record(&self) -> Result<Record<'_>, ReadError> {
        Record::parse(&self.record).map_err(|what| self.malformed(what))
    }

    /// The bytes of the record it stands at.
    pub(crate) fn bytes(&mut self) -> &mut Vec<u8> {
        &mut self.record
    }

    /// Whether the last record was not whole.
    #[must_use]
    pub fn is_cut(&self) -> bool {
        self.cut
    }

    pub(crate) fn wrong(&self, what: &'static str) -> ReadError {
        self.malformed(Malformed(what))
    }

    fn malformed(&self, what: Malformed) -> ReadError {
        ReadError::Malformed {
            at: self.record_at,
            what,
        }
    }
}

/// Appends a record with its length; `put` appends its bytes.
pub(crate) fn frame(out: &mut Vec<u8>, put: impl FnOnce(&mut Vec<u8>)) {
    let at = out.len();
    out.extend_from_slice(&[0; 4]);
    put(out);
    let length = u32::try_from(out.len() - at - 4).unwrap_or(u32::MAX);
    out[at..at + 4].copy_from_slice(&length.to_le_bytes());
}
