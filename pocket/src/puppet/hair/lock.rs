use super::super::canvas::{Canvas, Path};
use super::super::color::{Color, rgb};
use super::super::face::LINE;
use super::super::geometry::{Vec2, Vec3, along, degrees, sin_cos, vec2, vec3};
use super::super::paint::{faint, lit};
use super::super::scene::{Ball, Scene};
use super::hair_paint;

/// Something that stands out of the hair.
#[derive(Debug)]
pub(super) enum Lock {
    /// Wound up to a ball.
    Knot { center: Vec3, radius: f32 },
    /// A braid along a line.
    Braid { line: Vec<Vec3>, radii: [f32; 3] },
    /// A tail or a wave along a line; its radius at the start, in the middle and at the end.
    Tail {
        line: Vec<Vec3>,
        radii: [f32; 3],
        /// Whether a band holds its start.
        band: bool,
    },
}

impl Lock {
    /// Whether it is nearer to the viewer than what it grows on.
    pub fn is_near(&self, scene: &Scene<'_>) -> bool {
        let depth = |p: Vec3| scene.head.turn(p).z;
        match self {
            Self::Knot { center, .. } => depth(*center) > 0.1,
            Self::Braid { line, .. } => depth(line[line.len() / 2]) > -0.15,
            Self::Tail { line, .. } => depth(line[line.len() / 2]) > 0.1,
        }
    }

    /// Paints it; `band` is the colour of what holds it.
    pub fn paint(&self, canvas: &mut Canvas, scene: &Scene<'_>, band: Color) {
        let project = |line: &[Vec3]| line.iter().map(|p| scene.head.project(*p)).collect();
        match self {
            Self::Knot { center, radius } => knot(canvas, scene, *center, *radius, band),
            Self::Braid { line, radii } => braid(canvas, scene, project(line), *radii, band),
            Self::Tail {
                line,
                radii,
                band: held,
            } => tail(canvas, scene, project(line), *radii, held.then_some(band)),
        }
    }
}

/// A smooth radius through three, at 0, at a half and at 1.
fn between([a, b, c]: [f32; 3], t: f32) -> f32 {
    let middle = 2.0 * b - 0.5 * (a + c);
    (1.0 - t) * (1.0 - t) * a + 2.0 * t * (1.0 - t) * middle + t * t * c
}

fn knot(canvas: &mut Canvas, scene: &Scene<'_>, center: Vec3, radius: f32, band: Color) {
    let hair = scene.character.hair.color;
    let light = &scene.light;
    let radius = radius * scene.head.scale;
    let center = scene.head.project(center);
    let ball = Ball {
        center,
        radii: vec2(radius, radius),
    };
    let ink = lit(light, ball, hair.line());
    let whole = Path::circle(center, radius);
    canvas.fill(&Path::circle(center, radius + LINE * 0.8), &ink);
    canvas.fill(&whole, hair_paint(hair, light, ball, 0.9, 40.0, 300.0));
    let mask = canvas.mask(&whole);
    // Wound hair.
    for k in 0..3 {
        let turn = 0.35 + 0.3 * k as f32;
        let arc: Vec<Vec2> = (0..6)
            .map(|j| {
                let (sin, cos) = sin_cos(200.0 + 34.0 * j as f32 + 30.0 * k as f32);
                center + vec2(cos, sin * 0.9) * (radius * turn) + vec2(0.0, radius * 0.25)
            })
            .collect();
        canvas.fill_in(&Path::stroke(&arc, LINE * 0.7), &mask, faint(&ink, 0.6));
    }
    let toward = (scene.head.project(vec3(0.0, -0.5, -0.1)) - center).unit();
    let at = center + toward * radius * 0.86;
    let across = toward.turned() * radius * 0.62;
    let tie = [at - across, at + toward * (radius * 0.12), at + across];
    canvas.fill(&Path::brush(&tie, |_| 0.022), lit(light, ball, band));
}

/// Leaves that overlap, from the end up.
fn braid(canvas: &mut Canvas, scene: &Scene<'_>, line: Vec<Vec2>, radii: [f32; 3], band: Color) {
    const LEAVES: usize = 7;
    let hair = scene.character.hair.color;
    let light = &scene.light;
    let scale = scene.head.scale;
    let spans = (line.len() - 1) as f32;
    let tail = along(&line, spans);
    let before = along(&line, spans - 0.3);
    let around = |center: Vec2, radius: f32| Ball {
        center,
        radii: vec2(radius, radius),
    };
    let ball = around(line[line.len() / 2], 1.5 * scale);
    let ink = lit(light, ball, hair.line());
    let end = tail + (tail - before).unit() * (0.20 * scale);
    let tuft = Path::brush(&[before, tail, end], |t| scale * 0.24 * (1.0 - 0.7 * t));
    canvas.fill(&tuft, hair_paint(hair, light, ball, 0.2, 0.0, 300.0));
    canvas.fill(&Path::circle(tail, 0.020), lit(light, ball, band));
    for k in (0..LEAVES).rev() {
        let t = k as f32 / LEAVES as f32;
        let p = along(&line, t * spans);
        let ahead = (along(&line, (t * spans + 0.1).min(spans)) - p).unit();
        let radius = between(radii, t) * scale;
        for half in [-1.0, 1.0] {
            let center = p + ahead.turned() * (half * radius * 0.42);
            let tilt = degrees(ahead.y, ahead.x) - half * 32.0;
            let leaf = |grown: f32| {
                let radii = vec2(radius * 0.95 + grown, radius * 0.58 + grown);
                Path::ellipse(center, radii, tilt)
            };
            canvas.fill(&leaf(LINE * 0.55), &ink);
            let own = around(center, radius * 1.3);
            canvas.fill(&leaf(0.0), hair_paint(hair, light, own, 0.8, 0.0, 200.0));
        }
    }
}

fn tail(
    canvas: &mut Canvas,
    scene: &Scene<'_>,
    line: Vec<Vec2>,
    radii: [f32; 3],
    band: Option<Color>,
) {
    const STEPS: usize = 12;
    let hair = scene.character.hair.color;
    let light = &scene.light;
    let scale = scene.head.scale;
    let spans = (line.len() - 1) as f32;
    let ball = Ball {
        center: line[line.len() / 2],
        radii: vec2(1.3, 1.7) * scale,
    };
    let radius = |t: f32| between(radii, t) * scale;
    // Beads on the line make it round where it comes towards the viewer.
    let body = |grown: f32| {
        let beads = (0..STEPS).fold(Path::default(), |path, k| {
            let t = k as f32 / STEPS as f32;
            path.and(&Path::circle(along(&line, t * spans), radius(t) + grown))
        });
        [beads, Path::brush(&line, |t| 2.0 * (radius(t) + grown))]
    };
    let ink = lit(light, ball, hair.line());
    for part in body(LINE * 0.8) {
        canvas.fill(&part, &ink);
    }
    let [beads, brush] = body(0.0);
    let mut mask = canvas.mask(&beads);
    mask.unite(&canvas.mask(&brush));
    canvas.fill_mask(&mask, hair_paint(hair, light, ball, 0.25, 0.0, 300.0));
    let beside = |by: f32| -> Vec<Vec2> {
        (0..=STEPS)
            .map(|k| {
                let t = k as f32 / STEPS as f32;
                let before = along(&line, (t * spans - 0.05).max(0.0));
                let after = along(&line, (t * spans + 0.05).min(spans));
                along(&line, t * spans) + (after - before).unit().turned() * (by * radius(t))
            })
            .collect()
    };
    for by in [-0.45, 0.1, 0.55] {
        let strand = Path::stroke(&beside(by), LINE * 0.7);
        canvas.fill_in(&strand, &mask, faint(&ink, 0.5));
    }
    let bright = hair.mix(rgb(1.0, 0.98, 0.94), 0.42);
    let gleam = Path::stroke(&beside(-0.15)[2..7], LINE * 1.5);
    canvas.fill_in(&gleam, &mask, faint(lit(light, ball, bright), 0.7));
    if let Some(band) = band {
        let at = along(&line, 0.18);
        let across = (line[1] - line[0]).unit().turned() * (radius(0.04) * 1.1);
        let tie = Path::brush(&[at - across, at + across], |_| 0.030);
        canvas.fill(&tie, lit(light, ball, band));
    }
}
