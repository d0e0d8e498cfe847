//! The contact sheet: ways of drawing below each other, scenes beside each other.

use image::imageops::{FilterType, overlay, resize};
use image::{Rgb, RgbImage};

use crate::FaceRegion;
use crate::report::{Report, Way};
use crate::text::{Font, wrap};

const PAPER: Rgb<u8> = Rgb([250, 249, 246]);
const INK: Rgb<u8> = Rgb([33, 37, 43]);
const GREY: Rgb<u8> = Rgb([110, 116, 125]);
const LINE: Rgb<u8> = Rgb([221, 219, 212]);
const GOOD: Rgb<u8> = Rgb([26, 127, 86]);
const BAD: Rgb<u8> = Rgb([184, 64, 52]);

/// Side of a picture on the sheet.
const TILE: u32 = 192;
const GAP: u32 = 10;
const MARGIN: u32 = 28;
/// Width of the rows' names and scores.
const LABEL: u32 = 190;
/// Between the references and the scenes.
const GUTTER: u32 = 26;

impl Way {
    /// The colour that marks it.
    pub(crate) fn color(self) -> Rgb<u8> {
        match self {
            Self::Without => Rgb([140, 146, 155]),
            Self::Lora => Rgb([47, 111, 196]),
            Self::Reference => Rgb([214, 129, 38]),
            Self::Both => Rgb([126, 79, 176]),
        }
    }
}

/// A sheet that shows all at one glance: a row for each way with its scores, a column for each scene, and the character's references. Of
/// each scene it shows the first seed.
pub fn contact_sheet(report: &Report) -> RgbImage {
    let subject = &report.subject;
    let scenes = subject.scenes.len() as u32;
    let letters = (TILE / Font::SMALL.letter()) as usize;
    let heads: Vec<Vec<String>> = (subject.words().iter())
        .map(|words| wrap(words, letters, 6))
        .collect();
    let head_lines = heads.iter().map(Vec::len).max().unwrap_or(0).max(2) as u32;

    let references_left = MARGIN + LABEL;
    let scenes_left = references_left + TILE + GUTTER;
    let width = scenes_left + scenes * (TILE + GAP) - GAP + MARGIN;
    let title_height = Font::LARGE_BOLD.line() + Font::SMALL.line() + 16;
    let heads_top = MARGIN + title_height;
    let rows_top = heads_top + head_lines * Font::SMALL.line() + 8;
    let rows = report.rows.len() as u32;
    let foot_top = rows_top + rows * (TILE + GAP) + 8;
    let foot_letters = ((width - 2 * MARGIN) / Font::MEDIUM_BOLD.letter()) as usize;
    let conclusion = wrap(&report.conclusion(), foot_letters, 3);
    let legend = "CLIP-I: likeness of the face to the references. CLIP-T: agreement with the words. \
                  spread: how far the row's faces are from each other.";
    let legend_letters = ((width - 2 * MARGIN) / Font::SMALL.letter()) as usize;
    let legend = wrap(legend, legend_letters, 3);
    let height = foot_top
        + conclusion.len() as u32 * Font::MEDIUM_BOLD.line()
        + 4
        + legend.len() as u32 * Font::SMALL.line()
        + MARGIN;
    let mut sheet = RgbImage::from_pixel(width, height, PAPER);

    Font::LARGE_BOLD.write(&mut sheet, [MARGIN, MARGIN - 6], &subject.name, INK);
    let told = format!(
        "{scenes} scenes, seed {} in every row. model {}, LoRA {}",
        subject.seeds.first().copied().unwrap_or_default(),
        subject.model,
        subject.lora
    );
    let below = MARGIN + Font::LARGE_BOLD.line();
    Font::SMALL.write(&mut sheet, [MARGIN, below], &told, GREY);

    let line = |row: u32| rows_top - 8 - (head_lines - row) * Font::SMALL.line();
    Font::SMALL_BOLD.write(&mut sheet, [references_left, line(0)], "references", INK);
    let own = format!("agree by {:.3}", report.agreement);
    Font::SMALL.write(&mut sheet, [references_left, line(1)], &own, GREY);
    for (column, head) in (0..).zip(&heads) {
        let left = scenes_left + column * (TILE + GAP);
        for (row, text) in (0..).zip(head) {
            Font::SMALL.write(&mut sheet, [left, line(row)], text, INK);
        }
    }

    for (row, (drawn, scores)) in (0..).zip(&report.rows) {
        let top = rows_top + row * (TILE + GAP);
        fill(&mut sheet, [MARGIN, top, 5, TILE], drawn.way.color());
        let left = MARGIN + 16;
        let name = wrap(drawn.way.title(), 14, 2);
        let mut y = top + 12;
        for text in &name {
            Font::MEDIUM_BOLD.write(&mut sheet, [left, y], text, INK);
            y += Font::MEDIUM_BOLD.line();
        }
        y += 8;
        let clip_i = format!("CLIP-I {:.3}", scores.clip_i());
        Font::SMALL_BOLD.write(&mut sheet, [left, y], &clip_i, INK);
        y += Font::SMALL.line();
        if let Some(clip_t) = scores.clip_t() {
            let text = format!("CLIP-T {clip_t:.3}");
            Font::SMALL.write(&mut sheet, [left, y], &text, GREY);
            y += Font::SMALL.line();
        }
        let spread = format!("spread {:.3}", scores.spread);
        Font::SMALL.write(&mut sheet, [left, y], &spread, GREY);

        let shown = row as usize * report.references.len() / report.rows.len();
        put(
            &mut sheet,
            [references_left, top],
            &report.references[shown],
        );
        for column in 0..scenes {
            let picture = &drawn.pictures[column as usize * subject.seeds.len()];
            put(
                &mut sheet,
                [scenes_left + column * (TILE + GAP), top],
                picture,
            );
        }
    }
    let middle = scenes_left - GUTTER / 2;
    fill(
        &mut sheet,
        [middle, rows_top, 1, rows * (TILE + GAP) - GAP],
        LINE,
    );

    let color = match report.verdict.consistent {
        true => GOOD,
        false => BAD,
    };
    let mut y = foot_top;
    for text in &conclusion {
        Font::MEDIUM_BOLD.write(&mut sheet, [MARGIN, y], text, color);
        y += Font::MEDIUM_BOLD.line();
    }
    y += 4;
    for text in &legend {
        Font::SMALL.write(&mut sheet, [MARGIN, y], text, GREY);
        y += Font::SMALL.line();
    }
    sheet
}

/// A picture's middle square, in the size of a tile.
fn put(sheet: &mut RgbImage, [left, top]: [u32; 2], picture: &RgbImage) {
    let square = FaceRegion::WHOLE.of(picture);
    let tile = match square.width() {
        TILE => square,
        _ => resize(&square, TILE, TILE, FilterType::CatmullRom),
    };
    overlay(sheet, &tile, left.into(), top.into());
}

fn fill(sheet: &mut RgbImage, [left, top, width, height]: [u32; 4], color: Rgb<u8>) {
    for y in top..top + height {
        for x in left..left + width {
            sheet.put_pixel(x, y, color);
        }
    }
}
