//! Skin, eyes, brows, nose, mouth, and the marks by which one face is told from another.

mod beard;
mod brows;
mod eyes;
mod marks;
mod mouth;
mod nose;

use super::canvas::{Canvas, Mask, Path};
use super::color::{Color, rgb};
use super::geometry::{Vec2, lerp, sin_cos, smoothstep, vec2, vec3};
use super::paint::{darken, lit};
use super::scene::Scene;
use super::shot::Expression;

/// Height of the eyes' middle.
pub(crate) const EYES: f32 = 0.07;

/// Width of a line in picture units.
pub(crate) const LINE: f32 = 0.0105;

/// The head without its features; returns what it covers.
pub(crate) fn head(canvas: &mut Canvas, scene: &Scene<'_>) -> Mask {
    let ring = scene.outline.ring();
    let path = Path::loop_through(&ring).and(&nose::side(scene));
    let mask = canvas.mask(&path);
    canvas.fill_mask(&mask, |p, _| (scene.skin_at(p), 1.0));
    // Warmth where the blood is near: cheeks and nose.
    let pale = scene.character.skin.luma();
    let blush = rgb(1.03, lerp(0.80, 0.68, pale), lerp(0.80, 0.70, pale));
    let mood = mood(scene.shot.expression);
    for side in [-1.0, 1.0] {
        let cheek = scene.face(side * 0.42, 0.34);
        let seen = scene.face(side * 0.60, 0.34).x - scene.face(side * 0.24, 0.34).x;
        let radii = vec2((seen.abs() * 0.62).max(0.004), 0.038) * mood.spread;
        canvas.fill_in(&Path::ellipse(cheek, radii, 0.0), &mask, |p, below| {
            let d = vec2((p.x - cheek.x) / radii.x, (p.y - cheek.y) / radii.y).length();
            let strength = mood.cheeks * (1.0 - smoothstep(0.1, 1.0, d));
            (below * blush * mood.cheek, strength)
        });
    }
    // A mood shows around the eyes too, in the language of comics: red with anger, blue with grief.
    let middle = scene.face(0.0, -0.16);
    let reach = vec2(0.72, 0.44) * scene.head.scale;
    canvas.fill_in(&Path::ellipse(middle, reach, 0.0), &mask, |p, below| {
        let d = vec2((p.x - middle.x) / reach.x, (p.y - middle.y) / reach.y).length();
        (below * mood.around_eyes, 1.0 - smoothstep(0.3, 1.0, d))
    });
    jaw_shade(canvas, scene, &mask);
    mask
}

/// What an expression does to the colour of the skin.
struct Mood {
    /// How strong the cheeks' colour is, how much farther it goes, and what it is multiplied by.
    cheeks: f32,
    spread: f32,
    cheek: Color,
    /// What the skin around eyes and brows is multiplied by.
    around_eyes: Color,
}

fn mood(expression: Expression) -> Mood {
    let calm = Mood {
        cheeks: 0.62,
        spread: 1.0,
        cheek: rgb(1.0, 1.0, 1.0),
        around_eyes: rgb(1.0, 1.0, 1.0),
    };
    match expression {
        Expression::Neutral => calm,
        Expression::Smile => Mood {
            cheeks: 0.95,
            spread: 1.25,
            cheek: rgb(1.04, 0.88, 0.94),
            ..calm
        },
        Expression::Angry => Mood {
            cheeks: 0.40,
            cheek: rgb(1.0, 0.92, 0.88),
            around_eyes: rgb(1.02, 0.74, 0.68),
            ..calm
        },
        Expression::Surprised => Mood {
            cheeks: 0.10,
            ..calm
        },
        Expression::Sad => Mood {
            cheek: rgb(0.86, 1.12, 1.30),
            around_eyes: rgb(0.80, 0.88, 1.08),
            ..calm
        },
    }
}

/// The underside of the jaw, as far as it is seen.
fn jaw_shade(canvas: &mut Canvas, scene: &Scene<'_>, mask: &Mask) {
    let chin = scene.skull.level(0.9).y * 1.06;
    let edge: Vec<Vec2> = (-8..=8)
        .map(|k| {
            let azimuth = k as f32 * 13.0;
            let rise = (k as f32 / 8.0).abs();
            let y = lerp(chin, 0.52, rise * rise);
            scene.head.project(scene.skull.point(azimuth, y, 0.0))
        })
        .collect();
    let below = vec2(0.0, 0.5);
    let mut area = edge.clone();
    area.push(edge[edge.len() - 1] + below);
    area.push(edge[0] + below);
    let strength = smoothstep(4.0, -24.0, scene.pitch) * 0.75;
    if strength > 0.02 {
        canvas.fill_in(
            &Path::polygon(&area),
            mask,
            darken(rgb(0.80, 0.66, 0.68), strength),
        );
    }
}

/// The edge of the head as a line.
pub(crate) fn outline(canvas: &mut Canvas, scene: &Scene<'_>) {
    let ink = line(scene, scene.character.skin.line());
    let mut ring = scene.outline.ring();
    if ring.len() > 3 {
        // From the top all around to the top.
        ring.push(ring[0]);
        let mut edge = canvas.mask(&Path::brush(&ring, |_| LINE * 0.85));
        // The nose goes over it.
        let nose = canvas.mask(&nose::side(scene));
        edge.subtract(&nose);
        canvas.fill_mask(&edge, ink);
    }
}

/// All that lies on the skin.
pub(crate) fn features(canvas: &mut Canvas, scene: &Scene<'_>, skin: &Mask) {
    marks::freckles(canvas, scene, skin);
    beard::beard(canvas, scene, skin);
    mouth::mouth(canvas, scene);
    beard::moustache(canvas, scene);
    for side in [-1.0, 1.0] {
        eyes::eye(canvas, scene, side);
    }
    nose::nose(canvas, scene, skin);
    for side in [-1.0, 1.0] {
        brows::brow(canvas, scene, side);
    }
    marks::marks(canvas, scene);
}

/// How far an eye is turned to the viewer, 0 to 1.
pub(crate) fn eye_shown(scene: &Scene<'_>, side: f32) -> f32 {
    let spacing = eye_spacing(scene);
    let section = scene.skull.level(EYES);
    let normal = vec3(
        side * spacing / (section.width * section.width),
        0.0,
        0.8 / section.front,
    );
    scene.head.turn(normal.unit()).z
}

pub(crate) fn eye_spacing(scene: &Scene<'_>) -> f32 {
    let character = scene.character;
    0.335 + 0.028 * character.eyes.spacing + 0.012 * character.face.width
}

/// How much of the nose's side is seen: -1 to 1.
pub(crate) fn sideways(scene: &Scene<'_>) -> f32 {
    sin_cos(scene.yaw).0
}

/// A colour on the head in the scene's light.
fn line(scene: &Scene<'_>, color: Color) -> impl Fn(Vec2, Color) -> (Color, f32) {
    lit(&scene.light, scene.ball, color)
}
