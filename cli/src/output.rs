use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;
use image::RgbImage;
use tempfile::TempDir;

use crate::failure::{Blame, Failure, wrong};

/// A PNG with text chunks of the given keywords.
pub fn write_png(path: &Path, picture: &RgbImage, texts: &[(&str, &str)]) -> Result<(), Failure> {
    character_library::write_png(path, picture, texts)
        .with_context(|| format!("{}: cannot be written", path.display()))
        .work()
}

/// Where the pictures of one run go.
#[derive(Debug)]
pub struct PictureFiles {
    out: PathBuf,
    folder: bool,
}

impl PictureFiles {
    /// `--out`: a folder that exists or a name that ends in a slash, else a PNG file; made sure of before the work starts.
    pub fn new(out: Option<&Path>, seed: u64) -> Result<Self, Failure> {
        let named = |name: &str| Self {
            out: PathBuf::from(name),
            folder: false,
        };
        let Some(out) = out else {
            return Ok(named(&format!("samecast-{seed}.png")));
        };
        let slash = out
            .to_string_lossy()
            .ends_with(['/', std::path::MAIN_SEPARATOR]);
        if out.is_dir() || slash {
            fs::create_dir_all(out)
                .with_context(|| format!("--out {}: cannot be made", out.display()))
                .input()?;
            return Ok(Self {
                out: out.to_path_buf(),
                folder: true,
            });
        }
        let png = out
            .extension()
            .is_some_and(|ending| ending.eq_ignore_ascii_case("png"));
        if !png {
            return wrong(format!(
                "--out {}: a name that ends in .png, or a folder, is expected",
                out.display()
            ));
        }
        check_parent(out)?;
        Ok(Self {
            out: out.to_path_buf(),
            folder: false,
        })
    }

    /// The file of picture `index` of `count`.
    pub fn file(&self, index: usize, count: usize, seed: u64) -> PathBuf {
        if self.folder {
            return self.out.join(format!("{seed}-{}.png", index + 1));
        }
        if count == 1 {
            return self.out.clone();
        }
        let stem = self.out.file_stem().unwrap_or_default().to_string_lossy();
        self.out.with_file_name(format!("{stem}-{}.png", index + 1))
    }
}

/// A folder that is written beside its place, and put there whole.
#[derive(Debug)]
pub struct WholeFolder {
    target: PathBuf,
    // A folder that is dropped is deleted.
    beside: TempDir,
}

impl WholeFolder {
    /// Makes sure that the folder can be put there. One that is there and not empty is replaced if `force` is given and it holds the file
    /// `mark`, by which it is known as one that was written so.
    ///
    /// # Errors
    /// If something else is there, or nothing can be written.
    pub fn begin(target: &Path, mark: &str, force: bool) -> Result<Self, Failure> {
        let told = target.display();
        if target.exists() && !target.is_dir() {
            return wrong(format!(
                "--out {told}: a folder is expected, and this is a file"
            ));
        }
        check_parent(target)?;
        if !is_empty(target)? {
            if !force {
                return wrong(format!(
                    "--out {told}: the folder is not empty; --force replaces it"
                ));
            }
            if !target.join(mark).is_file() {
                return wrong(format!(
                    "--out {told}: the folder holds no {mark}, so no such run wrote it; name another folder"
                ));
            }
        }
        let parent = match target.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let beside = tempfile::Builder::new()
            .prefix(".samecast-")
            .suffix(".partial")
            .tempdir_in(parent)
            .with_context(|| {
                format!(
                    "--out {told}: nothing can be written in {}",
                    parent.display()
                )
            })
            .input()?;
        fs::create_dir(beside.path().join("new"))
            .with_context(|| format!("--out {told}: cannot be made"))
            .work()?;
        Ok(Self {
            target: target.to_path_buf(),
            beside,
        })
    }

    /// Where its files are written.
    pub fn path(&self) -> PathBuf {
        self.beside.path().join("new")
    }

    /// Puts it in its place.
    ///
    /// # Errors
    /// If that cannot be done; what was there is then there still.
    pub fn finish(self) -> Result<(), Failure> {
        let (new, old) = (self.path(), self.beside.path().join("old"));
        let put = || -> std::io::Result<()> {
            let replaced = self.target.exists();
            if replaced {
                fs::rename(&self.target, &old)?;
            }
            fs::rename(&new, &self.target).inspect_err(|_| {
                if replaced {
                    // Back to how it was; the first error is the one to tell.
                    let _ = fs::rename(&old, &self.target);
                }
            })
        };
        put()
            .with_context(|| format!("{}: cannot be put in its place", self.target.display()))
            .work()
    }
}

/// Whether there is nothing in a folder, or no folder.
pub fn is_empty(folder: &Path) -> Result<bool, Failure> {
    if !folder.exists() {
        return Ok(true);
    }
    let mut entries = fs::read_dir(folder)
        .with_context(|| format!("{}: cannot be read", folder.display()))
        .input()?;
    Ok(entries.next().is_none())
}

/// Makes sure that a file can be put where `--out` says.
pub fn check_parent(out: &Path) -> Result<(), Failure> {
    let parent = match out.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => return Ok(()),
    };
    if parent.is_dir() {
        return Ok(());
    }
    wrong(format!(
        "--out {}: the folder {} does not exist; make it first",
        out.display(),
        parent.display()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_are_numbered_where_there_are_several() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let one = PictureFiles::new(Some(&dir.path().join("mira.png")), 5).unwrap();
        assert!(one.file(0, 1, 5).ends_with("mira.png"));
        assert!(one.file(1, 2, 5).ends_with("mira-2.png"));
        let folder = PictureFiles::new(Some(dir.path()), 5).unwrap();
        assert!(folder.file(0, 2, 5).ends_with("5-1.png"));
    }

    #[test]
    fn an_out_that_cannot_be_is_refused_before_the_work() {
        for out in ["picture.jpg", "no/such/folder/a.png"] {
            let error = PictureFiles::new(Some(Path::new(out)), 5).unwrap_err();
            assert_eq!(error.status(), 2, "{error}");
        }
    }
}
