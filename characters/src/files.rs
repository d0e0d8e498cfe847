//! Files that are written whole or not at all, and pictures.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::Path;

use image::{DynamicImage, ImageDecoder, ImageReader, RgbImage};

/// Writes a file whole or not at all: beside its name first, then renamed.
///
/// # Errors
/// If it cannot be written; what was there before is then left as it was.
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

/// Writes a PNG file, whole or not at all, with text chunks of the given keywords.
///
/// # Errors
/// As [`write_whole`].
pub fn write_png(path: &Path, picture: &RgbImage, texts: &[(&str, &str)]) -> io::Result<()> {
    write_whole(path, |file| encode_png(file, picture, texts))
}

/// A picture as a PNG file in memory.
pub(crate) fn png(picture: &RgbImage) -> io::Result<Vec<u8>> {
    let mut bytes = vec![];
    encode_png(&mut bytes, picture, &[])?;
    Ok(bytes)
}

fn encode_png(file: impl Write, picture: &RgbImage, texts: &[(&str, &str)]) -> io::Result<()> {
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
}

/// Reads a picture of any known kind, upright.
///
/// # Errors
/// If it is none, or cannot be read.
pub fn read_picture(path: &Path) -> image::ImageResult<DynamicImage> {
    let mut decoder = ImageReader::open(path)?
        .with_guessed_format()?
        .into_decoder()?;
    let orientation = decoder.orientation()?;
    let mut picture = DynamicImage::from_decoder(decoder)?;
    picture.apply_orientation(orientation);
    Ok(picture)
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
}
