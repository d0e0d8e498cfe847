//! The puppet: cartoon portraits of characters, drawn from a seed.
//!
//! A [`Character`] is all that stays the same from picture to picture. A [`Shot`] is what a caption says of one picture (angle,
//! expression, lighting, place, outfit) and a seed for the rest. [`draw`] makes a picture of the two, and [`caption`] its words.
//!
//! ```
//! use samecast_pocket::puppet::{Character, Shot, caption, draw, read};
//!
//! let mira = Character::from_seed(7);
//! let shot = Shot::random(1);
//! let picture = draw(&mira, &shot, 96);
//! assert_eq!(picture.dimensions(), (96, 96));
//!
//! let words = caption(mira.sex, &shot, Some("mira"));
//! assert_eq!(read(&words)?.shot(shot.seed), shot);
//! # Ok::<(), samecast_pocket::puppet::CaptionError>(())
//! ```
//!
//! # How it draws
//! The head is a body in space: level cuts through it, each of two half ellipses, seen by a camera with perspective. What is seen as
//! its edge follows from the camera, and eyes, nose, mouth, brows, hairline and glasses are placed on it and go with it. So a head that
//! turns is not a picture that is sheared: the nose grows out of the profile, the far eye goes out of sight, the ear comes into it.
//! Areas are rasterized by [zeno](https://docs.rs/zeno) with exact coverage, and coloured by functions of the light; soft shadows are
//! blurred coverage.
//!
//! # The same everywhere
//! A picture depends on its arguments alone. Random numbers are SplitMix64; sines, arc tangents and powers are those of
//! [libm](https://docs.rs/libm), not of the platform; all else is addition, multiplication, division and square roots of `f32`, which
//! IEEE 754 gives to the bit, and whole numbers. That leaves out targets without IEEE arithmetic, such as 32-bit x86 without SSE2.

mod body;
mod canvas;
mod caption;
mod character;
mod color;
mod extras;
mod face;
mod finish;
mod folder;
mod geometry;
mod hair;
mod light;
mod paint;
mod place;
mod random;
mod recipe;
mod scene;
mod shot;
mod surface;

use std::ops::RangeInclusive;

use image::RgbImage;

pub use caption::{Caption, CaptionError, caption, is_trigger, read, vocabulary};
pub use character::{
    Beard, Brows, Character, Cut, Earrings, Eyes, Face, Glasses, HELD_OUT, Hair, Jewel, Lenses,
    Mole, Mouth, Nose, Scar, TRAINING,
};
pub use color::Color;
pub use folder::{Folder, FolderError};
pub use recipe::shots;
pub use shot::{Angle, Expression, Lighting, Outfit, Place, Sex, Shot};

use canvas::{Canvas, Path};
use geometry::{Vec2, vec2};
use scene::Scene;

/// Sides of a picture that can be drawn, in pixels. The strokes are made for 96.
pub const SIZES: RangeInclusive<u32> = 64..=512;

/// Draws one picture, `size` pixels wide and high.
///
/// # Panics
/// If `size` is not within [`SIZES`].
pub fn draw(character: &Character, shot: &Shot, size: u32) -> RgbImage {
    let mut picture = RgbImage::new(size, size);
    Easel::default().draw_into(character, shot, size, &mut picture);
    picture
}

/// Draws picture after picture in the same memory.
///
/// ```
/// use samecast_pocket::puppet::{Character, Easel, Shot};
///
/// let mut easel = Easel::default();
/// let mut batch = vec![0; 4 * 96 * 96 * 3];
/// for (seed, picture) in batch.chunks_exact_mut(96 * 96 * 3).enumerate() {
///     let character = Character::from_seed(1_000_000 + seed as u64);
///     easel.draw_into(&character, &Shot::random(seed as u64), 96, picture);
/// }
/// ```
#[derive(Debug, Default)]
pub struct Easel {
    canvas: Canvas,
}

impl Easel {
    /// Draws into `picture`: red, green and blue bytes, row by row from the top.
    ///
    /// # Panics
    /// If `size` is not within [`SIZES`], or `picture` does not hold `size × size × 3` bytes.
    pub fn draw_into(&mut self, character: &Character, shot: &Shot, size: u32, picture: &mut [u8]) {
        assert!(
            SIZES.contains(&size),
            "a picture of {size} pixels; {} to {} can be drawn",
            SIZES.start(),
            SIZES.end()
        );
        let side = size as usize;
        assert_eq!(picture.len(), side * side * 3, "bytes of the picture");

        let canvas = &mut self.canvas;
        let scene = Scene::new(character, shot);
        let body = body::Body::new(&scene);
        let hair = hair::Hair::new(&scene);

        // From the back to the front.
        canvas.clear(side);
        place::paint(canvas, shot, &scene.light);
        canvas.figure = 1.0;
        let skull = canvas.mask(&Path::loop_through(&scene.outline.ring()));
        hair.behind(canvas, &scene);
        body.behind(canvas, &scene);
        body.before(canvas, &scene, &skull);
        hair.around(canvas, &scene);
        extras::ears(canvas, &scene, false);
        let head = face::head(canvas, &scene);
        face::outline(canvas, &scene);
        face::features(canvas, &scene, &head);
        extras::temples(canvas, &scene);
        hair.before(canvas, &scene, &head);
        extras::ears(canvas, &scene, true);
        extras::glasses(canvas, &scene);
        finish::shine(canvas, &scene);
        canvas.write(picture);
    }
}

/// Where a face is in its picture: a square in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FaceBox {
    /// Its left edge.
    pub left: u32,
    /// Its upper edge.
    pub top: u32,
    /// Its side.
    pub side: u32,
}

/// Where the face is in the picture that [`draw`] makes: the square around the head without what the hair adds, and a tenth more.
///
/// # Panics
/// If `size` is not within [`SIZES`].
pub fn face_box(character: &Character, shot: &Shot, size: u32) -> FaceBox {
    assert!(SIZES.contains(&size), "a picture of {size} pixels");
    let ball = Scene::new(character, shot).ball;
    let half = f32::min(1.1 * ball.radii.x.max(ball.radii.y), 0.5);
    let pixels = |v: f32| (v * size as f32).round() as u32;
    let side = pixels(2.0 * half);
    let edge = |center: f32| pixels((center - half).max(0.0)).min(size - side);
    FaceBox {
        left: edge(ball.center.x),
        top: edge(ball.center.y),
        side,
    }
}

/// How much the parts of a picture count, where the background and the clothes count 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Attention {
    /// The head.
    pub head: f32,
    /// Its features.
    pub features: f32,
    /// The mouth and the brows.
    pub mimic: f32,
}

impl Attention {
    /// For what a face shows.
    pub const EXPRESSION: Self = Self {
        head: 4.0,
        features: 8.0,
        mimic: 24.0,
    };

    /// For whose it is.
    pub const IDENTITY: Self = Self {
        head: 4.0,
        features: 8.0,
        mimic: 8.0,
    };
}

/// How much of what people look at is where: one number for each cell of a grid of `side × side` over the picture, row by row.
pub fn importance(
    character: &Character,
    shot: &Shot,
    side: usize,
    attention: Attention,
) -> Vec<f32> {
    const AROUND_HEAD: f32 = 1.15;
    // In parts of the picture's side.
    const AROUND_FEATURES: f32 = 0.13;
    const AROUND_MOUTH: f32 = 0.075;
    const AROUND_BROW: f32 = 0.06;
    let scene = Scene::new(character, shot);
    let features = scene.face(0.0, 0.22);
    let mouth = scene.face(0.0, 0.70);
    let brows = [scene.face(-0.33, -0.20), scene.face(0.33, -0.20)];
    let weight = |index: usize| {
        let at = |cell: usize| (cell as f32 + 0.5) / side as f32;
        let p = vec2(at(index % side), at(index / side));
        let near = |what: Vec2, reach: f32| (p - what).length() < reach * scene.zoom();
        let out = p - scene.ball.center;
        let out = vec2(out.x / scene.ball.radii.x, out.y / scene.ball.radii.y);
        if near(mouth, AROUND_MOUTH) || brows.into_iter().any(|brow| near(brow, AROUND_BROW)) {
            attention.mimic
        } else if near(features, AROUND_FEATURES) {
            attention.features
        } else if out.length() < AROUND_HEAD {
            attention.head
        } else {
            1.0
        }
    };
    (0..side * side).map(weight).collect()
}
