use super::super::canvas::{Canvas, Mask, Path, taper};
use super::super::color::rgb;
use super::super::geometry::{Vec3, lerp, smoothstep, vec2, vec3};
use super::super::paint::{darken, faint};
use super::super::scene::Scene;
use super::super::shot::Sex;
use super::{LINE, line, sideways};

/// The nose's middle line from the brows to the lip, in space.
fn ridge(scene: &Scene<'_>) -> [Vec3; 8] {
    let nose = scene.character.nose;
    let man = if scene.character.sex == Sex::Man {
        1.0
    } else {
        0.0
    };
    let tip = nose_tip(scene);
    let bridge = 0.055 + 0.035 * nose.bridge + 0.015 * man;
    let out = 0.225 + 0.045 * nose.bridge + 0.02 * man;
    let up = 0.035 * nose.tip;
    let at = |y: f32, lift: f32| {
        let section = scene.skull.level(y);
        vec3(0.0, y, section.z + section.front + lift)
    };
    [
        at(-0.22, 0.0),
        at(-0.08, bridge * 0.35),
        at(0.06, bridge * 0.75),
        at(
            lerp(0.06, tip, 0.55),
            lerp(bridge, out, 0.48) - 0.02 * nose.tip,
        ),
        at(tip - 0.045 - up, out * 0.98),
        at(tip + 0.02 - up, out),
        at(tip + 0.075 - 0.4 * up, out * 0.66),
        at(tip + 0.10, 0.045),
    ]
}

fn nose_tip(scene: &Scene<'_>) -> f32 {
    0.345 + 0.045 * scene.character.nose.length + 0.02 * scene.character.face.length
}

fn nose_half(scene: &Scene<'_>) -> f32 {
    let base = match scene.character.sex {
        Sex::Woman => 0.112,
        Sex::Man => 0.130,
    };
    base + 0.032 * scene.character.nose.width
}

/// The nose as it stands out of the face, turned to a side.
pub(super) fn side(scene: &Scene<'_>) -> Path {
    let aside = sideways(scene);
    if aside.abs() < 0.25 {
        return Path::default();
    }
    let ridge = ridge(scene).map(|p| scene.head.project(p));
    let near = -aside.signum();
    let wing = scene.raised(near * nose_half(scene), nose_tip(scene) + 0.05, 0.0);
    let root = scene.raised(near * 0.12, -0.10, 0.0);
    // The same way round as the head's outline, so that the two make one area.
    let mut points = ridge[1..].to_vec();
    points.push(wing);
    points.push(root);
    let area: f32 = (0..points.len())
        .map(|i| {
            let (a, b) = (points[i], points[(i + 1) % points.len()]);
            a.x * b.y - b.x * a.y
        })
        .sum();
    if area < 0.0 {
        points.reverse();
    }
    Path::loop_through(&points)
}

pub(super) fn nose(canvas: &mut Canvas, scene: &Scene<'_>, skin: &Mask) {
    let aside = sideways(scene);
    let tip = nose_tip(scene);
    let half = nose_half(scene);
    let line_color = scene.character.skin.line();
    let ink = line(scene, line_color);
    let points = ridge(scene);
    let ridge = points.map(|p| scene.head.project(p));
    let scale = scene.head.scale;

    // The side that looks away from the light, and the shadow below.
    let away = if aside.abs() > 0.3 {
        aside.signum()
    } else {
        -scene.light.side
    };
    let wing = |side: f32, dy: f32| scene.raised(side * half, tip + dy, 0.05);
    let flank = Path::default()
        .move_to(ridge[2])
        .through(&[ridge[3], ridge[4], ridge[5]])
        .through(&[wing(away, 0.08), wing(away, 0.0)])
        .through(&[scene.raised(away * 0.11, 0.08, 0.0), ridge[2]])
        .close();
    canvas.fill_in(&flank, skin, darken(rgb(0.87, 0.73, 0.72), 0.42));
    let under = Path::default()
        .move_to(wing(-1.0, 0.04))
        .through(&[ridge[6], wing(1.0, 0.04)])
        .through(&[
            scene.raised(half * 0.5, tip + 0.15, 0.0),
            scene.raised(0.0, tip + 0.17, 0.0),
            scene.raised(-half * 0.5, tip + 0.15, 0.0),
            wing(-1.0, 0.04),
        ])
        .close();
    canvas.fill_in(&under, skin, darken(rgb(0.82, 0.66, 0.66), 0.5));

    // Light on ridge and tip.
    let shine = scene.light.on(
        scene.character.skin.mix(rgb(1.0, 1.0, 0.98), 0.55),
        vec3(0.0, 0.0, 1.0),
    );
    let ball = ridge[4];
    canvas.fill_in(&Path::circle(ball, 0.030), skin, |p, _| {
        let d = (p - ball).length() / 0.030;
        (shine, 0.55 * (1.0 - smoothstep(0.05, 1.0, d)))
    });

    // Nostrils: seen more from below.
    let below = smoothstep(14.0, -26.0, scene.pitch);
    for side in [-1.0, 1.0] {
        if side * aside > 0.42 {
            continue;
        }
        let inner = scene.raised(side * half * 0.22, tip + 0.075 + 0.02 * below, 0.10);
        let outer = scene.raised(side * half * 0.80, tip + 0.055 + 0.01 * below, 0.06);
        let thick = scale * (0.018 + 0.035 * below);
        let hole = Path::brush(
            &[inner, inner.mix(outer, 0.5) - vec2(0.0, 0.006), outer],
            |t| thick * taper(t),
        );
        canvas.fill_in(&hole, skin, faint(&ink, 0.55 + 0.35 * below));
        // The wing.
        let curve = [
            scene.raised(side * half * 0.98, tip - 0.045, 0.04),
            scene.raised(side * half * 1.10, tip + 0.02, 0.03),
            scene.raised(side * half * 0.92, tip + 0.075, 0.04),
        ];
        canvas.fill_in(&Path::stroke(&curve, 0.0075), skin, faint(&ink, 0.6));
    }

    // Seen from the side, the ridge is a line.
    let strength = smoothstep(0.22, 0.55, aside.abs());
    if strength > 0.0 {
        let from = if aside.abs() > 0.8 { 0 } else { 2 };
        canvas.fill(
            &Path::brush(&ridge[from..8], |t| LINE * 0.85 * taper(t * 0.9 + 0.1)),
            faint(&ink, strength),
        );
    } else {
        let curve = [
            wing(-0.5, 0.085),
            ridge[6] + vec2(0.0, 0.004),
            wing(0.5, 0.085),
        ];
        canvas.fill(&Path::stroke(&curve, 0.007), faint(&ink, 0.6));
    }
}
