use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;
use image::RgbImage;

use crate::failure::{Blame, Failure, wrong};

/// Writes a file whole or not at all: beside its name first, then renamed.
pub fn write_whole(
    path: &Path,
    write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> io::Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let partial = path.with_file_name(format!(".{name}.{}.partial", std::process::id()));
    let result = (|| {
        let mut file = BufWriter::new(File::create(&partial)?);
        write(&mut file)?;
        file.into_inner()?.sync_all()?;
        fs::rename(&partial, path)
    })();
    if result.is_err() {
        // The error that matters is the first; what is left of the file is of no use.
        let _ = fs::remove_file(&partial);
    }
    result
}

/// A PNG with text chunks of the given keywords.
pub fn write_png(path: &Path, picture: &RgbImage, texts: &[(&str, &str)]) -> Result<(), Failure> {
    write_whole(path, |file| {
        let mut encoder = png::Encoder::new(file, picture.width(), picture.height());
        encoder.set_color(png::ColorType::Rgb);
        encoder.set_depth(png::BitDepth::Eight);
        for (keyword, text) in texts {
            // Plain Latin-1 text chunks are what every reader knows; anything else goes into an international one.
            if text.is_ascii() {
                encoder.add_text_chunk((*keyword).into(), (*text).into())?;
            } else {
                encoder.add_itxt_chunk((*keyword).into(), (*text).into())?;
            }
        }
        let mut writer = encoder.write_header()?;
        writer.write_image_data(picture.as_raw())?;
        writer.finish()?;
        Ok(())
    })
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
    fn a_failed_write_leaves_the_old_file_and_nothing_else() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join("a.txt");
        fs::write(&path, "old").unwrap();
        let result = write_whole(&path, |file| {
            file.write_all(b"new")?;
            Err(io::Error::other("disk full"))
        });
        assert!(result.is_err());
        assert_eq!(fs::read_to_string(&path).unwrap(), "old");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

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
