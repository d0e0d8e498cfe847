//! Ears, earrings and glasses.

use super::canvas::{Canvas, Path};
use super::character::{Jewel, Lenses};
use super::color::{Color, rgb};
use super::face::{EYES, LINE, eye_shown, eye_spacing, sideways};
use super::geometry::{Vec2, Vec3, sin_cos, smoothstep, vec2, vec3};
use super::paint::{faint, lit, tint};
use super::scene::{Ball, Scene};

/// The ears that lie behind the head, or those that lie before it.
pub(crate) fn ears(canvas: &mut Canvas, scene: &Scene<'_>, near: bool) {
    if scene.character.hair.cut.covers_ears() {
        return;
    }
    let aside = sideways(scene);
    for side in [-1.0, 1.0] {
        // A face turned to the right shows the ear on the left.
        let before = -side * aside > 0.30;
        if before == near && side * aside < 0.75 {
            ear(canvas, scene, side);
        }
    }
}

/// A point of an ear in space: `back` from where it is grown to the head, `down` from its middle.
fn ear_point(scene: &Scene<'_>, side: f32, back: f32, down: f32) -> Vec3 {
    let root = scene.skull.point(side * 97.0, 0.10, -0.01);
    let (sin, cos) = sin_cos(32.0);
    root + vec3(side * sin * back, down, -cos * back)
}

fn ear(canvas: &mut Canvas, scene: &Scene<'_>, side: f32) {
    let at = |back: f32, down: f32| scene.head.project(ear_point(scene, side, back, down));
    let skin = scene.character.skin;
    let light = &scene.light;
    let ball = Ball {
        center: scene.ball.center,
        radii: scene.ball.radii * 1.1,
    };
    let outer = [
        at(-0.02, -0.08),
        at(0.04, -0.22),
        at(0.17, -0.26),
        at(0.26, -0.16),
        at(0.24, 0.02),
        at(0.15, 0.18),
        at(0.05, 0.27),
        at(-0.03, 0.20),
    ];
    let ink = skin.line();
    canvas.fill(
        &Path::loop_through(&outer),
        lit(light, ball, skin.mix(rgb(0.90, 0.38, 0.36), 0.14)),
    );
    canvas.fill(&Path::brush(&outer, |_| LINE * 0.8), lit(light, ball, ink));
    let inner = [
        at(0.05, -0.10),
        at(0.13, -0.15),
        at(0.18, -0.06),
        at(0.12, 0.05),
        at(0.06, 0.10),
    ];
    canvas.fill(
        &Path::stroke(&inner, LINE * 0.9),
        faint(lit(light, ball, ink), 0.5),
    );
    earring(canvas, scene, side);
}

fn earring(canvas: &mut Canvas, scene: &Scene<'_>, side: f32) {
    let Some(earrings) = scene.character.earrings else {
        return;
    };
    let scale = scene.head.scale;
    let lobe = scene.head.project(ear_point(scene, side, 0.05, 0.24));
    let light = &scene.light;
    let front = vec3(0.0, 0.0, 1.0);
    let color = light.on(earrings.color, front);
    let edge = light.on(earrings.color.line(), front);
    let shine = light.on(earrings.color.mix(rgb(1.0, 1.0, 1.0), 0.7), front);
    let bead = |canvas: &mut Canvas, center: Vec2, radii: Vec2| {
        let grown = vec2(radii.x + 0.004, radii.y + 0.004);
        canvas.fill(&Path::ellipse(center, grown, 0.0), tint(edge, 1.0));
        canvas.fill(&Path::ellipse(center, radii, 0.0), tint(color, 1.0));
        let at = center - vec2(radii.x, radii.y) * 0.3;
        canvas.fill(&Path::ellipse(at, radii * 0.38, 0.0), tint(shine, 0.9));
    };
    match earrings.shape {
        Jewel::Stud => bead(canvas, lobe, vec2(0.060, 0.060) * scale),
        Jewel::Hoop => {
            let radius = 0.17 * scale;
            let wide = radius * (0.45 + 0.55 * sideways(scene).abs());
            let middle = lobe + vec2(0.0, radius * 0.95);
            let ring: Vec<Vec2> = (0..=16)
                .map(|k| {
                    let (sin, cos) = sin_cos(k as f32 * 22.5);
                    middle + vec2(wide * cos, radius * sin)
                })
                .collect();
            canvas.fill(&Path::brush(&ring, |_| 0.017), tint(edge, 0.9));
            canvas.fill(&Path::brush(&ring, |_| 0.011), tint(color, 1.0));
        }
        Jewel::Drop => {
            let end = lobe + vec2(0.0, 0.24 * scale);
            canvas.fill(&Path::brush(&[lobe, end], |_| 0.006), tint(edge, 1.0));
            bead(canvas, end, vec2(0.062, 0.095) * scale);
        }
    }
}

/// A point of the glasses' plane.
fn pane(scene: &Scene<'_>, x: f32, y: f32) -> Vec3 {
    let section = scene.skull.level(EYES);
    vec3(x, y, section.z + section.front + 0.13 - 0.30 * x * x)
}

fn frame_paint(scene: &Scene<'_>, color: Color) -> impl Fn(Vec2, Color) -> (Color, f32) {
    lit(&scene.light, scene.ball, color)
}

/// Where a pair of glasses goes to the ears; the hair lies over it.
pub(crate) fn temples(canvas: &mut Canvas, scene: &Scene<'_>) {
    let Some(glasses) = scene.character.glasses else {
        return;
    };
    let aside = sideways(scene);
    let paint = frame_paint(scene, glasses.color * 0.85);
    for side in [-1.0, 1.0] {
        if side * aside > 0.12 {
            continue;
        }
        let hinge =
            scene
                .head
                .project(pane(scene, side * (eye_spacing(scene) + 0.25), EYES - 0.06));
        let ear = scene
            .head
            .project(scene.skull.point(side * 97.0, -0.06, 0.03));
        canvas.fill(&Path::brush(&[hinge, ear], |_| 0.012), &paint);
    }
}

/// Frames and panes.
pub(crate) fn glasses(canvas: &mut Canvas, scene: &Scene<'_>) {
    let Some(glasses) = scene.character.glasses else {
        return;
    };
    let paint = frame_paint(scene, glasses.color);
    let spacing = eye_spacing(scene) + 0.005;
    let (wide, high, square, thick): (f32, f32, f32, f32) = match glasses.shape {
        Lenses::Round => (0.262, 0.262, 0.0, 0.0125),
        Lenses::Square => (0.270, 0.215, 0.75, 0.0185),
        Lenses::CatEye => (0.275, 0.210, 0.35, 0.0150),
    };
    let rim = |side: f32| -> Vec<Vec2> {
        (0..=20)
            .map(|k| {
                let (sin, cos) = sin_cos(k as f32 * 18.0);
                // Between a circle and a square.
                let bulge = 1.0 / cos.abs().max(sin.abs());
                let grow = 1.0 + square * (bulge - 1.0) * 0.75;
                let (u, mut v) = (cos * grow, sin * grow);
                if glasses.shape == Lenses::CatEye && u > 0.0 && v < 0.15 {
                    v -= 0.42 * u * u;
                }
                scene.head.project(pane(
                    scene,
                    side * (spacing + u * wide),
                    EYES + 0.02 + v * high,
                ))
            })
            .collect()
    };
    let shown: Vec<f32> = [-1.0, 1.0]
        .into_iter()
        .filter(|side| eye_shown(scene, *side) > 0.10)
        .collect();
    for side in &shown {
        let rim = rim(*side);
        let glass = canvas.mask(&Path::polygon(&rim));
        canvas.fill_mask(&glass, tint(rgb(0.92, 0.97, 1.0), 0.10));
        let at = |u: f32, v: f32| {
            scene.head.project(pane(
                scene,
                side * spacing + u * wide,
                EYES + 0.02 + v * high,
            ))
        };
        let glint = Path::polygon(&[
            at(-0.75, -0.1),
            at(-0.35, -0.95),
            at(-0.05, -0.95),
            at(-0.60, 0.25),
        ]);
        let strength = 0.26 * smoothstep(0.1, 0.5, eye_shown(scene, *side));
        canvas.fill_in(&glint, &glass, tint(rgb(1.0, 1.0, 1.0), strength));
        canvas.fill(&Path::brush(&rim, |_| thick), &paint);
    }
    if shown.len() == 2 {
        let inner = spacing - wide;
        let at = |x: f32, y: f32| scene.head.project(pane(scene, x, y) + vec3(0.0, 0.0, 0.03));
        let bridge = [
            at(-inner, EYES - 0.02),
            at(0.0, EYES - 0.055),
            at(inner, EYES - 0.02),
        ];
        canvas.fill(&Path::brush(&bridge, |_| thick * 0.8), &paint);
    } else if let Some(side) = shown.first() {
        // The bridge ends on the nose.
        let at = |x: f32, y: f32| scene.head.project(pane(scene, x, y));
        let bridge = [
            at(side * (spacing - wide), EYES - 0.02),
            at(0.0, EYES - 0.05),
        ];
        canvas.fill(&Path::brush(&bridge, |_| thick * 0.8), &paint);
    }
}
