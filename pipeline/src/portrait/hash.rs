//! SHA-256 in lower-case hexadecimal.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use sha2::{Digest, Sha256};

/// A hash in the making.
#[derive(Default)]
pub struct Sha256Hex(Sha256);

impl Sha256Hex {
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    pub fn finish(self) -> String {
        let digest = self.0.finalize();
        digest.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

impl Write for Sha256Hex {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

pub fn sha256_of(bytes: &[u8]) -> String {
    let mut hash = Sha256Hex::default();
    hash.update(bytes);
    hash.finish()
}

pub fn sha256_of_file(path: &Path) -> io::Result<String> {
    let mut hash = Sha256Hex::default();
    io::copy(&mut File::open(path)?, &mut hash)?;
    Ok(hash.finish())
}
