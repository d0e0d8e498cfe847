//! Words in pictures.

use image::{Rgb, RgbImage};
use noto_sans_mono_bitmap::{FontWeight, RasterHeight, get_raster, get_raster_width};

/// A size and a weight of the letters.
#[derive(Clone, Copy, Debug)]
pub struct Font {
    weight: FontWeight,
    height: RasterHeight,
}

impl Font {
    pub const SMALL: Self = Self::new(FontWeight::Regular, RasterHeight::Size16);
    pub const SMALL_BOLD: Self = Self::new(FontWeight::Bold, RasterHeight::Size16);
    pub const MEDIUM_BOLD: Self = Self::new(FontWeight::Bold, RasterHeight::Size20);
    pub const LARGE_BOLD: Self = Self::new(FontWeight::Bold, RasterHeight::Size32);

    const fn new(weight: FontWeight, height: RasterHeight) -> Self {
        Self { weight, height }
    }

    /// From line to line, in pixels.
    pub fn line(self) -> u32 {
        self.height.val() as u32 + 3
    }

    /// Of each letter, in pixels.
    pub fn letter(self) -> u32 {
        get_raster_width(self.weight, self.height) as u32
    }

    /// Writes a line with its upper left corner at a place; what does not fit on the picture is cut off.
    pub fn write(self, picture: &mut RgbImage, [x, y]: [u32; 2], text: &str, color: Rgb<u8>) {
        let mut left = x;
        for letter in text.chars() {
            let raster = get_raster(letter, self.weight, self.height)
                .or_else(|| get_raster('?', self.weight, self.height));
            for (dy, row) in raster.iter().flat_map(|raster| raster.rows().enumerate()) {
                for (dx, &cover) in row.iter().enumerate() {
                    let (px, py) = (left + dx as u32, y + dy as u32);
                    if let Some(pixel) = picture.get_pixel_mut_checked(px, py) {
                        for (under, over) in pixel.0.iter_mut().zip(color.0) {
                            let (u, o, c) = (i32::from(*under), i32::from(over), i32::from(cover));
                            *under = (u + ((o - u) * c + 127) / 255) as u8;
                        }
                    }
                }
            }
            left += self.letter();
        }
    }
}

/// Breaks a text into lines of at most `width` letters, `most` of them; a text that is longer ends in dots.
pub fn wrap(text: &str, width: usize, most: usize) -> Vec<String> {
    let mut lines: Vec<String> = vec![];
    for word in text.split_whitespace() {
        let length = |text: &str| text.chars().count();
        // A word that is longer than a line is cut.
        let word: String = word.chars().take(width).collect();
        match lines.last_mut() {
            Some(line) if length(line) + 1 + length(&word) <= width => {
                line.push(' ');
                line.push_str(&word);
            }
            _ => lines.push(word),
        }
    }
    if lines.len() > most {
        lines.truncate(most);
        if let Some(last) = lines.last_mut() {
            *last = last
                .chars()
                .take(width.saturating_sub(3))
                .collect::<String>()
                + "...";
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_leave_ink_where_they_stand_and_nowhere_else() {
        let mut picture = RgbImage::from_pixel(60, 20, Rgb([255; 3]));
        Font::SMALL.write(&mut picture, [10, 2], "ab", Rgb([0; 3]));
        let inked = |from: u32, to: u32| {
            let columns = (from..to).flat_map(|x| (0..20).map(move |y| (x, y)));
            columns
                .filter(|&(x, y)| picture.get_pixel(x, y).0 != [255; 3])
                .count()
        };
        let letter = Font::SMALL.letter();
        assert_eq!(inked(0, 10), 0);
        assert!(inked(10, 10 + letter) > 10 && inked(10 + letter, 10 + 2 * letter) > 10);
        assert_eq!(inked(10 + 2 * letter, 60), 0);
        // Soft edges, not black and white alone.
        assert!(
            picture
                .pixels()
                .any(|pixel| (40..215).contains(&pixel.0[0]))
        );
        // At the edge, and letters that the font has not.
        Font::SMALL.write(&mut picture, [55, 15], "\u{5b57}w", Rgb([0; 3]));
    }

    #[test]
    fn lines_are_broken_between_words() {
        assert_eq!(wrap("a girl in a park", 9, 9), ["a girl in", "a park"]);
        assert_eq!(
            wrap("a girl in a park by the sea", 9, 2),
            ["a girl in", "a park..."]
        );
        assert_eq!(wrap("incomprehensible", 6, 1), ["incomp"]);
        assert!(wrap("", 6, 1).is_empty());
    }
}
