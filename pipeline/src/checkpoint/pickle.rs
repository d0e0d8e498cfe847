//! What is checked of a pickle before `pytorch-reader` parses it.
//!
//! That crate calls nothing: it interprets the few calls by which PyTorch rebuilds tensors, and keeps every other as an opaque value. Its
//! checks bound each tensor, copy and text by the bytes that are there, with three exceptions that are closed here. It keeps about a
//! hundred bytes for each opcode, so that a hundred megabytes of `None` would take ten gigabytes: opcodes are counted first. A deflated
//! entry expands to a thousand times its size: entries that are parsed must be stored, as PyTorch stores them. And TAR files, last written
//! in 2017, may declare runs of zeros of any length: they are refused.
//!
//! A file that would make Python run something is refused by name, although nothing would run here: its author meant harm.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use super::CheckpointError;

/// Opcodes of all pickles of a file. A checkpoint with the optimizer's state and the moving average has about a hundred thousand.
const MAX_OPCODES: usize = 1_000_000;
/// Bytes of a pickle in a ZIP file, apart from its tensors. A large checkpoint's has less than one megabyte.
const MAX_PICKLE: u64 = 64 << 20;
/// The pickles of a legacy file: magic number, version, system, object, keys of the storages.
const LEGACY_PICKLES: usize = 5;
/// Opens a legacy file, in the forms that binary and text pickles give it.
const LEGACY_MAGIC: [&[u8]; 2] = [
    &[0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19],
    b"119547037146038801333356",
];

/// Checks a PyTorch file, whose bytes are `bytes`.
pub(super) fn check(path: &Path, bytes: &[u8]) -> Result<(), CheckpointError> {
    if bytes.starts_with(b"PK") {
        return check_zip(path);
    }
    if bytes.get(257..262) == Some(b"ustar") {
        return Err(CheckpointError::NotAModel {
            path: path.to_owned(),
            found: "is a TAR archive, which PyTorch last wrote in 2017; save the model anew as safetensors".to_owned(),
        });
    }
    let start = &bytes[..bytes.len().min(64)];
    let legacy = LEGACY_MAGIC
        .iter()
        .any(|magic| start.windows(magic.len()).any(|window| window == *magic));
    let mut scan = Scan::new(path, bytes);
    for _ in 0..if legacy { LEGACY_PICKLES } else { 1 } {
        scan.pickle()?;
    }
    Ok(())
}

fn check_zip(path: &Path) -> Result<(), CheckpointError> {
    let damaged = |reason: String| CheckpointError::Damaged {
        path: path.to_owned(),
        reason,
    };
    let file = File::open(path).map_err(|source| CheckpointError::Io {
        path: path.to_owned(),
        source,
    })?;
    let mut archive =
        zip::ZipArchive::new(BufReader::new(file)).map_err(|e| damaged(e.to_string()))?;
    let mut pickles = 0;
    for index in 0..archive.len() {
        let mut entry = archive
            .by_index_raw(index)
            .map_err(|e| damaged(e.to_string()))?;
        let name = entry
            .name()
            .map_err(|e| damaged(e.to_string()))?
            .into_owned();
        if entry.compression() != zip::CompressionMethod::Stored {
            return Err(damaged(format!(
                "its entry `{name}` is compressed, which PyTorch never does; unpack the file and save it anew"
            )));
        }
        if !name.ends_with("data.pkl") {
            continue;
        }
        if entry.size() > MAX_PICKLE {
            return Err(damaged(format!(
                "its entry `{name}` has {} bytes, at most {MAX_PICKLE} expected",
                entry.size()
            )));
        }
        let mut pickle = Vec::new();
        entry
            .by_ref()
            .take(MAX_PICKLE)
            .read_to_end(&mut pickle)
            .map_err(|e| damaged(format!("its entry `{name}`: {e}")))?;
        Scan::new(path, &pickle).pickle()?;
        pickles += 1;
    }
    if pickles == 0 {
        return Err(CheckpointError::NotAModel {
            path: path.to_owned(),
            found: "is a ZIP archive without `data.pkl`, so not a PyTorch checkpoint; if it holds one, unpack it".to_owned(),
        });
    }
    Ok(())
}

/// Walks over opcodes without doing what they say. It follows texts into the memo, so as to read what protocol 4 calls.
struct Scan<'a> {
    path: &'a Path,
    bytes: &'a [u8],
    at: usize,
    opcodes: usize,
    /// The last two texts, the newer last.
    texts: [&'a [u8]; 2],
    memo: HashMap<u64, &'a [u8]>,
    memoized: u64,
    /// Whether the last opcode pushed a text.
    fresh: bool,
}

impl<'a> Scan<'a> {
    fn new(path: &'a Path, bytes: &'a [u8]) -> Self {
        Self {
            path,
            bytes,
            at: 0,
            opcodes: 0,
            texts: [b""; 2],
            memo: HashMap::new(),
            memoized: 0,
            fresh: false,
        }
    }

    fn damaged(&self, reason: &str) -> CheckpointError {
        CheckpointError::Damaged {
            path: self.path.to_owned(),
            reason: format!("its pickle {reason} (byte {})", self.at),
        }
    }

    fn take(&mut self, count: u64) -> Result<&'a [u8], CheckpointError> {
        let end = usize::try_from(count)
            .ok()
            .and_then(|n| self.at.checked_add(n));
        match end.and_then(|end| self.bytes.get(self.at..end)) {
            Some(taken) => {
                self.at += taken.len();
                Ok(taken)
            }
            None => Err(self.damaged("ends early")),
        }
    }

    fn number(&mut self, bytes: u64) -> Result<u64, CheckpointError> {
        let taken = self.take(bytes)?;
        Ok(taken
            .iter()
            .rev()
            .fold(0, |sum, &byte| sum << 8 | u64::from(byte)))
    }

    fn line(&mut self) -> Result<&'a [u8], CheckpointError> {
        let rest = &self.bytes[self.at..];
        match rest.iter().position(|&byte| byte == b'\n') {
            Some(end) => {
                self.at += end + 1;
                Ok(rest[..end].strip_suffix(b"\r").unwrap_or(&rest[..end]))
            }
            None => Err(self.damaged("ends within a line")),
        }
    }

    fn text(&mut self, text: &'a [u8]) {
        self.texts = [self.texts[1], text];
        self.fresh = true;
    }

    fn remember(&mut self, slot: u64, was_text: bool) {
        if was_text {
            self.memo.insert(slot, self.texts[1]);
        }
        // A text keeps its place on the stack.
        self.fresh = was_text;
    }

    fn recall(&mut self, slot: u64) {
        if let Some(text) = self.memo.get(&slot) {
            self.text(text);
        }
    }

    fn decimal(&mut self) -> Result<u64, CheckpointError> {
        let line = self.line()?;
        std::str::from_utf8(line)
            .ok()
            .and_then(|text| text.parse().ok())
            .ok_or_else(|| self.damaged("has a memo slot that is no number"))
    }

    fn calls(&self, module: &[u8], name: &[u8]) -> Result<(), CheckpointError> {
        let (module, name) = (
            String::from_utf8_lossy(module),
            String::from_utf8_lossy(name),
        );
        if !runs_something(&module, &name) {
            return Ok(());
        }
        Err(CheckpointError::UnsafePickle {
            path: self.path.to_owned(),
            call: format!("{module}.{name}").chars().take(120).collect(),
        })
    }

    /// Walks to the end of one pickle.
    fn pickle(&mut self) -> Result<(), CheckpointError> {
        self.memo.clear();
        self.memoized = 0;
        self.texts = [b""; 2];
        self.fresh = false;
        loop {
            self.opcodes += 1;
            if self.opcodes > MAX_OPCODES {
                return Err(self.damaged(
                    "has more than a million opcodes, ten times what a checkpoint needs",
                ));
            }
            let was_text = std::mem::take(&mut self.fresh);
            match self.take(1)?[0] {
                b'.' => return Ok(()),
                b'('
                | b'0'..=b'2'
                | b'N'
                | b'R'
                | b'b'
                | b'd'
                | b'l'
                | b't'
                | b's'
                | b'a'
                | b')'
                | b']'
                | b'}'
                | b'e'
                | b'u'
                | b'Q'
                | 0x81
                | 0x85..=0x89
                | 0x8f..=0x92
                | 0x97
                | 0x98 => {}
                b'I' | b'L' | b'F' | b'P' => {
                    self.line()?;
                }
                b'V' => {
                    let text = self.line()?;
                    self.text(text);
                }
                b'c' | b'i' => {
                    let (module, name) = (self.line()?, self.line()?);
                    self.calls(module, name)?;
                }
                0x93 => self.calls(self.texts[0], self.texts[1])?,
                b'g' => {
                    let slot = self.decimal()?;
                    self.recall(slot);
                }
                b'h' => {
                    let slot = self.number(1)?;
                    self.recall(slot);
                }
                b'j' => {
                    let slot = self.number(4)?;
                    self.recall(slot);
                }
                b'p' => {
                    let slot = self.decimal()?;
                    self.memoized += 1;
                    self.remember(slot, was_text);
                }
                b'q' => {
                    let slot = self.number(1)?;
                    self.memoized += 1;
                    self.remember(slot, was_text);
                }
                b'r' => {
                    let slot = self.number(4)?;
                    self.memoized += 1;
                    self.remember(slot, was_text);
                }
                0x94 => {
                    let slot = self.memoized;
                    self.memoized += 1;
                    self.remember(slot, was_text);
                }
                b'K' | 0x80 | 0x82 => {
                    self.take(1)?;
                }
                b'M' | 0x83 => {
                    self.take(2)?;
                }
                b'J' | 0x84 => {
                    self.take(4)?;
                }
                b'G' | 0x95 => {
                    self.take(8)?;
                }
                0x8a | b'C' => {
                    let length = self.number(1)?;
                    self.take(length)?;
                }
                0x8b | b'B' => {
                    let length = self.number(4)?;
                    self.take(length)?;
                }
                0x8e | 0x96 => {
                    let length = self.number(8)?;
                    self.take(length)?;
                }
                opcode @ (b'U' | 0x8c | b'T' | b'X' | 0x8d) => {
                    let length = self.number(match opcode {
                        b'U' | 0x8c => 1,
                        b'T' | b'X' => 4,
                        _ => 8,
                    })?;
                    let text = self.take(length)?;
                    self.text(text);
                }
                other => {
                    self.at -= 1;
                    return Err(self.damaged(&format!("has an unknown opcode 0x{other:02x}")));
                }
            }
        }
    }
}

/// Whether a call of `module.name` would do something beyond making a value. The list is for the message's sake: nothing is called.
fn runs_something(module: &str, name: &str) -> bool {
    const MODULES: &[&str] = &[
        "_posixsubprocess",
        "asyncio",
        "bdb",
        "code",
        "codeop",
        "commands",
        "ctypes",
        "ftplib",
        "http",
        "httplib",
        "importlib",
        "marshal",
        "multiprocessing",
        "nt",
        "os",
        "pdb",
        "pickle",
        "pip",
        "popen2",
        "posix",
        "posixpath",
        "pty",
        "requests",
        "runpy",
        "shutil",
        "signal",
        "smtplib",
        "socket",
        "subprocess",
        "sys",
        "timeit",
        "trace",
        "urllib",
        "urllib2",
        "webbrowser",
    ];
    const VALUES: &[&str] = &[
        "bool",
        "bytearray",
        "bytes",
        "complex",
        "dict",
        "float",
        "frozenset",
        "int",
        "list",
        "long",
        "object",
        "range",
        "set",
        "slice",
        "str",
        "tuple",
        "unicode",
        "xrange",
    ];
    match module {
        "builtins" | "__builtin__" | "__builtins__" => {
            !VALUES.contains(&name) && !name.ends_with("Error") && !name.ends_with("Exception")
        }
        "torch.hub" => true,
        _ => MODULES.contains(&module.split('.').next().unwrap_or(module)),
    }
}
