//! SHA-256 of files. That of a checkpoint takes a core seconds, so it is remembered where the system keeps what can be made again.

use std::fs::{self, File, Metadata};
use std::io::{self, BufReader};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::portraits::cache_folder;

/// Bytes from which on a hash is remembered.
const LARGE: u64 = 64 << 20;
/// What was changed so shortly ago may change again without its time telling: some systems count in seconds.
const SETTLED: Duration = Duration::from_secs(3);

/// SHA-256 of a file, in lower-case hexadecimal. That of a large one is computed once, and again when its size or one of its times has changed.
pub fn sha256(path: &Path) -> io::Result<String> {
    if fs::metadata(path)?.len() < LARGE {
        return computed(path);
    }
    match cache_folder("hashes") {
        Some(folder) => remembered(path, &folder),
        None => computed(path),
    }
}

fn computed(path: &Path) -> io::Result<String> {
    let mut hasher = Sha256::new();
    let mut file = BufReader::with_capacity(1 << 20, File::open(path)?);
    io::copy(&mut file, &mut HashWriter(&mut hasher))?;
    Ok(hex(&hasher.finalize()))
}

/// The hash of a file as it was seen.
#[derive(Serialize, Deserialize)]
struct Record {
    seen: Seen,
    sha256: String,
}

/// What tells that a file has changed. Times are in nanoseconds since 1970.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Seen {
    bytes: u64,
    modified: u128,
    /// When anything of it was changed, which nobody can set back; none where the system does not tell.
    changed: Option<i128>,
}

impl Seen {
    fn of(metadata: &Metadata) -> Option<Self> {
        let modified = since_1970(metadata.modified().ok()?)?;
        #[cfg(unix)]
        let changed = {
            use std::os::unix::fs::MetadataExt;
            Some(i128::from(metadata.ctime()) * 1_000_000_000 + i128::from(metadata.ctime_nsec()))
        };
        #[cfg(not(unix))]
        let changed = None;
        Some(Self {
            bytes: metadata.len(),
            modified,
            changed,
        })
    }

    fn is_settled(&self) -> bool {
        let now = since_1970(SystemTime::now()).unwrap_or_default();
        let last = self
            .changed
            .and_then(|changed| u128::try_from(changed).ok());
        let last = last.unwrap_or_default().max(self.modified);
        last.saturating_add(SETTLED.as_nanos()) < now
    }
}

fn since_1970(time: SystemTime) -> Option<u128> {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).ok()?;
    Some(since.as_nanos())
}

/// The hash that a folder remembers of a file that has not changed since, or the one that is computed now. A folder that cannot be read or written
/// costs the time alone.
fn remembered(path: &Path, folder: &Path) -> io::Result<String> {
    // A hub's folder links to files that lie elsewhere.
    let place = fs::canonicalize(path)?;
    let name = hex(&Sha256::digest(place.as_os_str().as_encoded_bytes()));
    let record = folder.join(format!("{name}.json"));
    let seen = Seen::of(&fs::metadata(&place)?);
    if let Some(seen) = &seen
        && let Some(known) = read(&record)
        && known.seen == *seen
    {
        return Ok(known.sha256);
    }
    let sha256 = computed(&place)?;
    if let Some(seen) = seen
        && seen.is_settled()
        && Seen::of(&fs::metadata(&place)?).as_ref() == Some(&seen)
    {
        let known = Record {
            seen,
            sha256: sha256.clone(),
        };
        let _ = write(&record, &known);
    }
    Ok(sha256)
}

fn read(record: &Path) -> Option<Record> {
    serde_json::from_slice(&fs::read(record).ok()?).ok()
}

fn write(record: &Path, known: &Record) -> io::Result<()> {
    let text = serde_json::to_vec(known)?;
    let folder: PathBuf = record.with_file_name("");
    fs::create_dir_all(folder)?;
    character_library::write_whole(record, |file| io::Write::write_all(file, &text))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

struct HashWriter<'a>(&'a mut Sha256);

impl io::Write for HashWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    fn set_modified(path: &Path, ago: Duration) {
        let file = File::options().write(true).open(path).unwrap();
        file.set_modified(SystemTime::now() - ago).unwrap();
    }

    #[test]
    fn a_hash_is_remembered_until_the_file_changes() {
        let dir = tempfile::tempdir().unwrap();
        let (path, folder) = (dir.path().join("model"), dir.path().join("hashes"));
        fs::write(&path, "abc").unwrap();
        assert_eq!(remembered(&path, &folder).unwrap(), ABC);
        assert!(!folder.exists(), "the file may still be written");

        // A record as it stands after a while.
        let place = fs::canonicalize(&path).unwrap();
        let seen = Seen::of(&fs::metadata(&place).unwrap()).unwrap();
        let name = hex(&Sha256::digest(place.as_os_str().as_encoded_bytes()));
        let record = folder.join(format!("{name}.json"));
        let known = Record {
            seen,
            sha256: "known".to_owned(),
        };
        write(&record, &known).unwrap();
        assert_eq!(remembered(&path, &folder).unwrap(), "known");

        set_modified(&path, Duration::from_secs(60));
        assert_eq!(remembered(&path, &folder).unwrap(), ABC);
        fs::write(&record, "damaged").unwrap();
        assert_eq!(remembered(&path, &folder).unwrap(), ABC);
    }

    #[test]
    fn what_lies_still_is_settled() {
        let now = since_1970(SystemTime::now()).unwrap();
        let seen = |modified, changed: Option<u128>| Seen {
            bytes: 3,
            modified,
            changed: changed.map(|changed| i128::try_from(changed).unwrap()),
        };
        let before = now - 60_000_000_000;
        assert!(seen(before, None).is_settled());
        assert!(seen(before, Some(before)).is_settled());
        // Its time was set back.
        assert!(!seen(before, Some(now)).is_settled());
        assert!(!seen(now, None).is_settled());
    }

    #[test]
    fn a_folder_that_is_a_file_costs_nothing_but_time() {
        let dir = tempfile::tempdir().unwrap();
        let (path, folder) = (dir.path().join("model"), dir.path().join("file"));
        fs::write(&path, "abc").unwrap();
        fs::write(&folder, "").unwrap();
        assert_eq!(remembered(&path, &folder).unwrap(), ABC);
        let missing = remembered(&dir.path().join("none"), &folder);
        assert_eq!(missing.unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
