use super::super::canvas::{Canvas, Path};
use super::super::color::{hex, rgb};
use super::super::geometry::{Vec2, lerp, sin_cos, vec2, vec3};
use super::super::paint::{darken, faint, tint};
use super::super::scene::Scene;
use super::super::shot::{Expression, Sex};
use super::{line, sideways};

/// Height of the line between the lips.
pub(super) fn mouth_y(scene: &Scene<'_>) -> f32 {
    0.655 + 0.05 * scene.character.face.length
}

pub(super) fn mouth(canvas: &mut Canvas, scene: &Scene<'_>) {
    let character = scene.character;
    let mouth = character.mouth;
    let woman = character.sex == Sex::Woman;
    let wide = 0.205 * (1.0 + 0.16 * mouth.width);
    let full = (1.0 + 0.38 * mouth.fullness) * if woman { 1.12 } else { 0.85 };
    let y0 = mouth_y(scene);
    // The lips curve around the teeth, which is seen from the side alone.
    let aside = sideways(scene).abs();
    let back = 0.26 * aside * aside * aside;
    // A drawn face shows more than a real one, so that it is read where it is small.
    let (broad, tall) = match scene.shot.expression {
        Expression::Neutral => (1.0, 1.0),
        Expression::Smile => (1.18, 1.22),
        Expression::Angry => (1.16, 1.25),
        Expression::Surprised => (1.20, 1.10),
        Expression::Sad => (1.10, 1.12),
    };
    let at = |x: f32, y: f32| {
        let lift = 0.05 - back * (0.7 * x.abs() + 0.3 * x * x);
        scene.raised(x * wide * broad, y0 + y * tall, lift)
    };
    let lip = if woman {
        mouth.color
    } else {
        mouth.color.mix(character.skin * 0.92, 0.35)
    };
    let lips = line(scene, lip);
    let upper_lip = line(scene, lip * 0.88);
    let dark = line(scene, hex(0x5a1a22));
    let ink = line(scene, (lip * 0.45).mix(hex(0x4a1820), 0.5));
    let teeth = line(scene, hex(0xfdfaf4));
    let tongue = line(scene, hex(0xd7606a));
    match scene.shot.expression {
        Expression::Smile => {
            // Corners up, teeth shown.
            let corner = |side: f32| at(side * 1.28, -0.075);
            let top = [
                at(0.62, -0.012),
                at(0.0, 0.012),
                at(-0.62, -0.012),
                corner(-1.0),
            ];
            let bottom = [at(-0.75, 0.10), at(0.0, 0.175), at(0.75, 0.10), corner(1.0)];
            let outer_top = [
                at(0.66, -0.055),
                at(0.22, -0.058 - 0.012 * full),
                at(0.0, -0.04),
                at(-0.22, -0.058 - 0.012 * full),
                at(-0.66, -0.055),
                corner(-1.0),
            ];
            let outer_bottom = [
                at(-0.78, 0.135),
                at(0.0, 0.185 + 0.055 * full),
                at(0.78, 0.135),
                corner(1.0),
            ];
            let whole = Path::default()
                .move_to(corner(1.0))
                .through(&outer_top)
                .through(&outer_bottom)
                .close();
            canvas.fill(&whole, &lips);
            let inside = Path::default()
                .move_to(corner(1.0))
                .through(&top)
                .through(&bottom)
                .close();
            let mask = canvas.mask(&inside);
            canvas.fill_mask(&mask, &dark);
            let tongue_shape = Path::ellipse(at(0.0, 0.175), vec2(0.028, 0.015), 0.0);
            canvas.fill_in(&tongue_shape, &mask, &tongue);
            let row = Path::default()
                .move_to(corner(1.0))
                .through(&top)
                .through(&[
                    at(-0.72, 0.045),
                    at(0.0, 0.098),
                    at(0.72, 0.045),
                    corner(1.0),
                ])
                .close();
            canvas.fill_in(&row, &mask, &teeth);
            let mut edge = vec![corner(1.0) + vec2(0.004, -0.002)];
            edge.extend_from_slice(&top);
            canvas.fill(&Path::stroke(&edge, 0.007), &ink);
            for side in [-1.0, 1.0] {
                let dimple = [
                    at(side * 1.32, -0.12),
                    at(side * 1.40, -0.06),
                    at(side * 1.33, 0.0),
                ];
                canvas.fill(&Path::stroke(&dimple, 0.006), faint(&ink, 0.45));
            }
        }
        Expression::Surprised => {
            let ring = |x: f32, top: f32, bottom: f32| {
                let points: Vec<Vec2> = (0..12)
                    .map(|k| {
                        let (sin, cos) = sin_cos(k as f32 * 30.0);
                        let y = if sin < 0.0 { top * -sin } else { bottom * sin };
                        at(x * cos, 0.055 + y)
                    })
                    .collect();
                Path::loop_through(&points)
            };
            canvas.fill(&ring(0.72, -0.13 - 0.02 * full, 0.17 + 0.03 * full), &lips);
            let mask = canvas.mask(&ring(0.55, -0.105, 0.145));
            canvas.fill_mask(&mask, &dark);
            canvas.fill_in(
                &Path::ellipse(at(0.0, 0.18), vec2(0.022, 0.014), 0.0),
                &mask,
                &tongue,
            );
            let row = Path::polygon(&[
                at(-0.6, -0.1),
                at(0.6, -0.1),
                at(0.5, -0.02),
                at(-0.5, -0.02),
            ]);
            canvas.fill_in(&row, &mask, &teeth);
        }
        Expression::Angry => {
            // Teeth clenched, corners down.
            let corners = [at(1.02, 0.075), at(-1.02, 0.075)];
            let ring = |out: f32| {
                Path::default()
                    .move_to(corners[0])
                    .through(&[
                        at(0.80, -0.015 - out),
                        at(0.0, -0.060 - out),
                        at(-0.80, -0.015 - out),
                        corners[1],
                    ])
                    .through(&[
                        at(-0.84, 0.125 + out),
                        at(0.0, 0.088 + 1.2 * out),
                        at(0.84, 0.125 + out),
                        corners[0],
                    ])
                    .close()
            };
            canvas.fill(&ring(0.040 * full), &lips);
            canvas.fill(&ring(0.012), &ink);
            let mask = canvas.mask(&ring(-0.012));
            canvas.fill_mask(&mask, &teeth);
            let bite = [
                at(1.0, 0.070),
                at(0.5, 0.030),
                at(0.0, 0.016),
                at(-0.5, 0.030),
                at(-1.0, 0.070),
            ];
            canvas.fill_in(&Path::brush(&bite, |_| 0.0065), &mask, &ink);
            for x in [-0.55, -0.18, 0.18, 0.55] {
                let gap = [at(x, -0.08), at(x, 0.14)];
                canvas.fill_in(&Path::brush(&gap, |_| 0.0045), &mask, faint(&ink, 0.45));
            }
            for side in [-1.0, 1.0] {
                let crease = [
                    at(side * 1.05, -0.12),
                    at(side * 1.32, -0.01),
                    at(side * 1.34, 0.11),
                ];
                canvas.fill(&Path::stroke(&crease, 0.007), faint(&ink, 0.55));
            }
        }
        expression => {
            // Closed lips: how low the corners are, how low the middle, and how wide it is.
            let (corner, middle, stretch) = match expression {
                Expression::Sad => (0.115, -0.030, 0.84),
                _ => (-0.006, 0.012, 1.0),
            };
            let p = |x: f32, y: f32| at(x * stretch, y);
            let corners = [p(1.0, corner), p(-1.0, corner)];
            let seam = [
                p(0.5, lerp(corner, middle, 0.72)),
                p(0.0, middle + 0.008),
                p(-0.5, lerp(corner, middle, 0.72)),
                corners[1],
            ];
            let up = 0.055 * full;
            let top = [
                p(-0.55, lerp(corner, middle, 0.7) - up * 0.72),
                p(-0.18, middle - up),
                p(0.0, middle - up * 0.72),
                p(0.18, middle - up),
                p(0.55, lerp(corner, middle, 0.7) - up * 0.72),
                corners[0],
            ];
            let down = 0.088 * full;
            let bottom = [
                p(-0.5, lerp(corner, middle, 0.8) + down * 0.8),
                p(0.0, middle + down),
                p(0.5, lerp(corner, middle, 0.8) + down * 0.8),
                corners[0],
            ];
            let upper = Path::default()
                .move_to(corners[0])
                .through(&seam)
                .through(&top)
                .close();
            let lower = Path::default()
                .move_to(corners[0])
                .through(&seam)
                .through(&bottom)
                .close();
            canvas.fill(&lower, &lips);
            canvas.fill(&upper, &upper_lip);
            let shine = scene
                .light
                .on(lip.mix(rgb(1.0, 1.0, 1.0), 0.5), vec3(0.0, 0.0, 1.0));
            let gleam = [
                p(-0.25, middle + down * 0.55),
                p(0.0, middle + down * 0.62),
                p(0.25, middle + down * 0.55),
            ];
            canvas.fill(
                &Path::stroke(&gleam, 0.008),
                tint(shine, if woman { 0.6 } else { 0.25 }),
            );
            let mut edge = vec![corners[0]];
            edge.extend_from_slice(&seam);
            let heavy = if expression == Expression::Neutral {
                0.0085
            } else {
                0.011
            };
            canvas.fill(&Path::stroke(&edge, heavy), &ink);
            let shadow = [
                p(-0.42, middle + down + 0.04),
                p(0.0, middle + down + 0.052),
                p(0.42, middle + down + 0.04),
            ];
            canvas.fill(
                &Path::stroke(&shadow, 0.010),
                darken(rgb(0.80, 0.62, 0.62), 0.45),
            );
        }
    }
}
