//! A crest between shaved sides.

use super::super::canvas::{Canvas, Path};
use super::super::face::LINE;
use super::super::geometry::{Vec2, degrees, lerp, sin_cos, vec2, vec3};
use super::super::paint::{faint, lit};
use super::super::scene::Scene;
use super::hair_paint;

/// What stands behind the head, but before the neck.
pub(super) fn behind(canvas: &mut Canvas, scene: &Scene<'_>) {
    let full = 0.08 * scene.character.hair.volume;
    let ball = scene.ball;
    // Spikes in a row from the forehead over the crown to the neck.
    let row: Vec<Vec2> = (0..=24)
        .map(|k| {
            let (sin, cos) = sin_cos(k as f32 * 8.2 - 6.0);
            // Forehead, crown, neck as an ellipse around the skull's middle.
            let far = 1.0 + if k % 2 == 0 { 0.0 } else { 0.45 + full };
            let p = vec3(
                0.0,
                -0.22 - 0.80 * sin * far,
                -0.10 + 0.86 * cos * (0.9 + 0.1 * far),
            );
            scene.head.project(p)
        })
        .collect();
    let mut points = row;
    let thick = 0.17 * scene.head.scale;
    // Seen from the front the row is a fan.
    let top = scene.head.project(vec3(0.0, -1.42 - full, -0.1));
    let foot = scene.head.project(vec3(0.0, -0.7, 0.45));
    let fan = Path::default()
        .move_to(foot + vec2(-thick, 0.0))
        .through(&[foot.mix(top, 0.6) + vec2(-thick * 1.15, 0.0), top])
        .through(&[
            foot.mix(top, 0.6) + vec2(thick * 1.15, 0.0),
            foot + vec2(thick, 0.0),
        ])
        .close();
    points.push(scene.head.project(vec3(0.0, 0.0, 0.0)));
    let paint = hair_paint(
        scene.character.hair.color,
        &scene.light,
        ball,
        0.6,
        0.0,
        600.0,
    );
    let color = scene.character.hair.color.line();
    let light = &scene.light;
    let ink = lit(light, ball, color);
    let side = Path::polygon(&points);
    canvas.fill(&side, &paint);
    let mut edge = points.clone();
    edge.pop();
    for pair in edge.windows(2) {
        canvas.fill(&Path::brush(pair, |_| LINE * 0.8), &ink);
    }
    canvas.fill(&fan, &paint);
}

/// The front of a crest, on the head.
pub(super) fn before(canvas: &mut Canvas, scene: &Scene<'_>) {
    let skull = &scene.skull;
    let half = 0.17;
    let visible = |y: f32| {
        let section = skull.level(y);
        let sin = (half / section.width.max(half)).min(1.0);
        degrees(sin, (1.0 - sin * sin).max(0.0).sqrt())
    };
    let mut left = vec![];
    let mut right = vec![];
    for k in 0..=8 {
        let y = lerp(-0.64, -0.97, k as f32 / 8.0);
        let azimuth = visible(y);
        if scene.head.turn(skull.normal(0.0, y)).z < -0.1 {
            break;
        }
        left.push(scene.round(-azimuth, y, 0.03));
        right.push(scene.round(azimuth, y, 0.03));
    }
    if left.len() < 2 {
        return;
    }
    let full = 0.08 * scene.character.hair.volume;
    let top = scene.head.project(vec3(0.0, -1.42 - full, -0.05));
    let mut points = left.clone();
    let (l, r) = (left[left.len() - 1], right[right.len() - 1]);
    points.push(l.mix(top, 0.55) + (l - r) * 0.12);
    points.push(top);
    points.push(r.mix(top, 0.55) + (r - l) * 0.12);
    points.extend(right.iter().rev());
    let foot = left[0].mix(right[0], 0.5) + vec2(0.0, 0.018);
    points.push(foot);
    let path = Path::polygon(&points);
    let ball = scene.ball;
    let light = &scene.light;
    canvas.fill(
        &path,
        hair_paint(scene.character.hair.color, light, ball, 0.8, 0.0, 600.0),
    );
    let color = scene.character.hair.color.line();
    points.push(points[0]);
    for pair in points.windows(2) {
        canvas.fill(
            &Path::brush(pair, |_| LINE * 0.75),
            faint(lit(light, ball, color), 0.9),
        );
    }
    for share in [0.33, 0.66] {
        let strand = [left[0].mix(right[0], share), l.mix(r, share), top];
        canvas.fill(
            &Path::stroke(&strand, LINE * 0.6),
            faint(lit(light, ball, color), 0.5),
        );
    }
}
