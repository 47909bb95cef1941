//! What was written to one stream and not yet handed to quinn-proto.
//!
//! quinn-proto takes no more than the peer's credit and its own send window allow, and does not
//! tell what of it has left; so the bound that writers feel, and the bytes called unsent, are
//! those here. A partial write arms no event of quinn-proto's: it is fed until it says blocked.

use std::collections::VecDeque;

use bytes::Bytes;
use quinn_proto::{SendStream, WriteError};

/// Small pieces are joined up to this size: quinn-proto looks through them for every packet.
const JOIN: usize = 16 * 1024;

#[derive(Default)]
pub struct Outgoing {
    pieces: VecDeque<Bytes>,
    pub unsent: usize,
    /// The writer was not let write everything and wants to hear of room.
    pub wants_room: bool,
    pub finish: bool,
    /// The connection's count of turns when it last handed something over.
    pub served: u64,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Fed {
    /// Its turn is over, it has more.
    More,
    /// Nothing is left, or quinn-proto takes no more for now and says when it does.
    Rests,
    /// The stream takes nothing ever again.
    Over,
}

impl Outgoing {
    pub fn push(&mut self, data: Vec<u8>) {
        self.unsent += data.len();
        let piece = match self.pieces.back() {
            Some(last) if last.len() + data.len() <= JOIN => {
                let joined = [&last[..], &data[..]].concat();
                self.pieces.pop_back();
                joined
            }
            _ => data,
        };
        self.pieces.push_back(piece.into());
    }

    /// Whether nothing has to be remembered of the stream.
    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty() && !self.wants_room && !self.finish
    }

    /// Hands over at most `turn` bytes.
    pub fn feed(&mut self, stream: &mut SendStream<'_>, mut turn: usize) -> Fed {
        while let Some(mut piece) = self.pieces.pop_front() {
            let part = piece.split_to(turn.min(piece.len()));
            let size = part.len();
            if !piece.is_empty() {
                self.pieces.push_front(piece);
            }
            let mut parts = [part];
            let written = stream.write_chunks(&mut parts);
            let [rest] = parts;
            let (taken, blocked) = match written {
                Ok(written) => (written.bytes, false),
                Err(WriteError::Blocked) => (0, true),
                Err(_) => return Fed::Over,
            };
            self.unsent -= taken;
            turn -= taken;
            if taken < size {
                self.pieces.push_front(rest);
            }
            if blocked {
                return Fed::Rests;
            }
            if turn == 0 && !self.pieces.is_empty() {
                return Fed::More;
            }
        }
        if std::mem::take(&mut self.finish) {
            let _ = stream.finish(); // it was stopped or reset: that is told on its own
        }
        Fed::Rests
    }
}
