use super::super::canvas::{Canvas, Mask, Path, taper};
use super::super::character::Beard;
use super::super::color::{Color, hex};
use super::super::geometry::{Vec2, lerp, smoothstep, vec2, vec3};
use super::super::paint::faint;
use super::super::scene::Scene;
use super::super::shot::Expression;
use super::mouth::mouth_y;
use super::{LINE, line};

fn beard_color(scene: &Scene<'_>) -> Color {
    let hair = scene.character.hair.color;
    (hair * 0.86).mix(hex(0x3a2620), 0.16)
}

/// The area of a beard from ear to ear, down over the edge of the jaw; to be cut where the skin ends.
fn beard_area(scene: &Scene<'_>, top: f32) -> Path {
    let mut points = vec![];
    for k in -7..=7 {
        let share = (k as f32 / 7.0).abs();
        let y = lerp(top, 0.0, share * share * share);
        points.push(scene.round(k as f32 * 12.0, y, 0.01));
    }
    let chin = scene.skull.level(0.95).y;
    for k in (-7..=7).rev() {
        let share = (k as f32 / 7.0).abs();
        let y = lerp(chin, 0.56, smoothstep(0.70, 1.05, share));
        let low = if share < 0.9 { 0.10 } else { 0.0 };
        points.push(scene.round(k as f32 * 12.0, y, 0.0) + vec2(0.0, low * scene.head.scale));
    }
    Path::loop_through(&points)
}

/// The part of a beard that hangs from the chin, and its lower edge.
fn beard_tip(scene: &Scene<'_>, drop: f32) -> (Path, Vec<Vec2>) {
    let chin = scene.skull.level(0.93).y;
    let at = |k: i32, y: f32, hang: f32| {
        let azimuth = scene.skull.in_sight(&scene.head, k as f32 * 13.0, y);
        let p = scene.skull.point(azimuth, y, 0.02);
        scene.head.project(p + vec3(0.0, hang, 0.3 * hang))
    };
    let low: Vec<Vec2> = (-5..=5)
        .map(|k| {
            let share = (k as f32 / 5.0).abs();
            at(
                k,
                lerp(chin, 0.86, share * share),
                drop * (1.0 - share * share),
            )
        })
        .collect();
    let mut points: Vec<Vec2> = (-5..=5).map(|k| at(k, 0.80, 0.0)).collect();
    points.extend(low.iter().rev());
    (Path::loop_through(&points), low)
}

pub(super) fn beard(canvas: &mut Canvas, scene: &Scene<'_>, skin: &Mask) {
    let color = beard_color(scene);
    let hairs = line(scene, color);
    let y = mouth_y(scene);
    match scene.character.beard {
        Beard::None | Beard::Moustache => {}
        Beard::Stubble => {
            let area = canvas.mask(&beard_area(scene, y - 0.04));
            let mut soft = canvas.soften(&area, vec2(0.0, 0.0), 0.014);
            soft.intersect(skin);
            let grown = line(scene, color.mix(hex(0x3a3230), 0.6));
            canvas.fill_mask(&soft, faint(&grown, 0.34));
        }
        Beard::Goatee => {
            let at = |x: f32, dy: f32| scene.raised(x, y + dy, 0.03);
            let area = [
                at(-0.20, 0.10),
                at(0.0, 0.115),
                at(0.20, 0.10),
                at(0.19, 0.25),
                at(0.10, 0.345),
                at(0.0, 0.37),
                at(-0.10, 0.345),
                at(-0.19, 0.25),
            ];
            let path = Path::loop_through(&area);
            canvas.fill(&path, &hairs);
            let ink = line(scene, color.line());
            for k in -2..=2 {
                let x = k as f32 * 0.07;
                let strand = [at(x, 0.16), at(x * 0.9, 0.24), at(x * 0.6, 0.33)];
                canvas.fill(&Path::stroke(&strand, 0.006), faint(&ink, 0.55));
            }
        }
        Beard::Short | Beard::Long => {
            let long = scene.character.beard == Beard::Long;
            let drop = if long { 0.36 } else { 0.08 };
            let ink = line(scene, color.line());
            let mut mask = canvas.mask(&beard_area(scene, y - 0.10));
            mask.intersect(skin);
            let (tip, edge) = beard_tip(scene, drop);
            mask.unite(&canvas.mask(&tip));
            canvas.fill_mask(&mask, &hairs);
            canvas.fill(&Path::brush(&edge, |t| LINE * 0.85 * taper(t)), &ink);
            for k in -5..=5 {
                let share = k as f32 / 5.0;
                let azimuth = share * 62.0;
                let top = lerp(y + 0.12, 0.45, share * share);
                let low = lerp(0.97, 0.66, share * share);
                let p = |height: f32, hang: f32| {
                    let azimuth = scene.skull.in_sight(&scene.head, azimuth, height);
                    let p = scene.skull.point(azimuth, height, 0.04);
                    scene.head.project(p + vec3(0.0, hang, 0.3 * hang))
                };
                let strand = [
                    p(top, 0.0),
                    p(lerp(top, low, 0.5), 0.2 * drop),
                    p(low, 0.7 * drop),
                ];
                canvas.fill_in(&Path::stroke(&strand, 0.007), &mask, faint(&ink, 0.5));
            }
        }
    }
}

pub(super) fn moustache(canvas: &mut Canvas, scene: &Scene<'_>) {
    if matches!(scene.character.beard, Beard::None | Beard::Stubble) {
        return;
    }
    let y = mouth_y(scene);
    let at = |x: f32, dy: f32| scene.raised(x, y + dy, 0.06);
    let lifted = match scene.shot.expression {
        Expression::Smile => -0.05,
        Expression::Surprised => -0.06,
        _ => 0.0,
    };
    let hairs = line(scene, beard_color(scene));
    for side in [-1.0, 1.0] {
        let points = [
            at(0.0, -0.085 + lifted),
            at(side * 0.12, -0.075 + lifted),
            at(side * 0.22, -0.01 + lifted),
            at(side * 0.27, 0.06 + 1.6 * lifted),
        ];
        canvas.fill(
            &Path::brush(&points, |t| 0.030 * (1.0 - 0.8 * t * t)),
            &hairs,
        );
    }
}
