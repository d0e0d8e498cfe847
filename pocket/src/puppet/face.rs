//! Skin, eyes, brows, nose, mouth, and the marks by which one face is told from another.

use super::canvas::{Canvas, Mask, Path, taper};
use super::character::{Beard, Mole, Scar};
use super::color::{Color, hex, rgb};
use super::geometry::{Vec2, lerp, sin_cos, smoothstep, vec2, vec3};
use super::random::Random;
use super::scene::Scene;
use super::shot::{Expression, Lighting, Sex};

/// Height of the eyes' middle.
pub(crate) const EYES: f32 = 0.07;

/// A picture's line of this colour.
fn line(scene: &Scene<'_>, color: Color) -> impl Fn(Vec2, Color) -> (Color, f32) {
    let ball = scene.ball;
    let light = scene.light.clone();
    move |p, _| (light.on(color, ball.normal(p)), 1.0)
}

/// The same, but only as strong as `alpha`.
fn tint(color: Color, alpha: f32) -> impl Fn(Vec2, Color) -> (Color, f32) {
    move |_, _| (color, alpha)
}

/// Darkens what is there.
fn darken(by: Color, alpha: f32) -> impl Fn(Vec2, Color) -> (Color, f32) {
    move |_, below| (below * by, alpha)
}

/// Width of a line in picture units.
pub(crate) const LINE: f32 = 0.0105;

/// The head without its features; returns what it covers.
pub(crate) fn head(canvas: &mut Canvas, scene: &Scene<'_>) -> Mask {
    let ring = scene.outline.ring();
    let path = Path::loop_through(&ring).and(&nose_side(scene));
    let mask = canvas.mask(&path);
    canvas.fill_mask(&mask, |p, _| (scene.skin_at(p), 1.0));
    // Warmth where the blood is near: cheeks and nose.
    let pale = scene.character.skin.luma();
    let blush = rgb(1.03, lerp(0.80, 0.68, pale), lerp(0.80, 0.70, pale));
    for side in [-1.0, 1.0] {
        let cheek = scene.face(side * 0.42, 0.34);
        let seen = scene.face(side * 0.60, 0.34).x - scene.face(side * 0.24, 0.34).x;
        let radii = vec2((seen.abs() * 0.62).max(0.004), 0.038);
        canvas.fill_in(&Path::ellipse(cheek, radii, 0.0), &mask, |p, below| {
            let d = vec2((p.x - cheek.x) / radii.x, (p.y - cheek.y) / radii.y).length();
            (below * blush, 0.62 * (1.0 - smoothstep(0.1, 1.0, d)))
        });
    }
    jaw_shade(canvas, scene, &mask);
    mask
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
        canvas.fill_in(&Path::polygon(&area), mask, darken(rgb(0.80, 0.66, 0.68), strength));
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
        let nose = canvas.mask(&nose_side(scene));
        edge.subtract(&nose);
        canvas.fill_mask(&edge, ink);
    }
}

/// All that lies on the skin.
pub(crate) fn features(canvas: &mut Canvas, scene: &Scene<'_>, skin: &Mask) {
    freckles(canvas, scene, skin);
    beard(canvas, scene, skin);
    mouth(canvas, scene);
    moustache(canvas, scene);
    for side in [-1.0, 1.0] {
        eye(canvas, scene, side);
    }
    nose(canvas, scene, skin);
    for side in [-1.0, 1.0] {
        brow(canvas, scene, side);
    }
    marks(canvas, scene);
}

// Eyes

/// What an expression does to an eye.
struct Lids {
    open: f32,
    /// How much lower the upper lid's inner and outer halves are.
    inner: f32,
    outer: f32,
    /// How much the lower lid rises.
    lower: f32,
    iris: f32,
}

fn lids(expression: Expression) -> Lids {
    let lids = |open, inner, outer, lower, iris| Lids {
        open,
        inner,
        outer,
        lower,
        iris,
    };
    match expression {
        Expression::Neutral => lids(0.95, 0.0, 0.0, 0.0, 1.0),
        Expression::Smile => lids(0.88, 0.0, 0.0, 0.42, 1.0),
        Expression::Angry => lids(0.86, 0.50, -0.05, 0.18, 0.94),
        Expression::Surprised => lids(1.30, -0.05, -0.05, -0.12, 0.86),
        Expression::Sad => lids(0.90, -0.05, 0.42, 0.10, 1.0),
    }
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

fn eye(canvas: &mut Canvas, scene: &Scene<'_>, side: f32) {
    if eye_shown(scene, side) < 0.12 {
        return;
    }
    let character = scene.character;
    let eyes = character.eyes;
    let woman = character.sex == Sex::Woman;
    let lids = lids(scene.shot.expression);
    let center = side * eye_spacing(scene);
    let half = 0.205 * (1.0 + 0.13 * eyes.size) * if woman { 1.04 } else { 0.97 };
    let high = half * (0.70 + 0.17 * eyes.roundness) * if woman { 1.06 } else { 0.93 };
    let slant = 0.045 + 0.075 * eyes.slant;
    // u outwards, v down, both -1 to 1 at the eye's edge.
    let place = |u: f32, v: f32| (center + side * u * half, EYES + v * high - slant * u);
    let at = |u: f32, v: f32| {
        let (x, y) = place(u, v);
        scene.raised(x, y, 0.01)
    };
    let upper_v = |u: f32, v: f32| {
        let drop = if u < 0.0 {
            lids.inner * -u
        } else {
            lids.outer * u
        };
        v * lids.open + drop * (0.45 + 0.55 * (1.0 - u.abs()))
    };
    let lower_v = |v: f32| v * (1.0 - lids.lower) * lids.open.max(1.0).min(1.12);
    let inner = at(-1.0, 0.30);
    let outer = at(1.0, 0.02);
    let upper = [
        inner,
        at(-0.72, upper_v(-0.72, -0.52)),
        at(-0.25, upper_v(-0.25, -0.97)),
        at(0.30, upper_v(0.30, -0.98)),
        at(0.76, upper_v(0.76, -0.58)),
        outer,
    ];
    let lower = [
        at(0.62, lower_v(0.62)),
        at(0.05, lower_v(0.86)),
        at(-0.55, lower_v(0.68)),
        inner,
    ];
    let shape = Path::default()
        .move_to(upper[0])
        .through(&upper[1..])
        .through(&lower)
        .close();
    // A soft hollow around the eye.
    let socket = at(0.0, -0.25);
    let wide = (at(1.0, 0.0).x - at(-1.0, 0.0).x).abs() * 0.72;
    let tall = high * 1.5 * scene.head.scale;
    canvas.fill(&Path::ellipse(socket, vec2(wide, tall), 0.0), |p, below| {
        let d = vec2((p.x - socket.x) / wide, (p.y - socket.y) / tall).length();
        (below * rgb(0.86, 0.74, 0.76), 0.40 * (1.0 - smoothstep(0.35, 1.0, d)))
    });

    let mask = canvas.mask(&shape);
    let white = hex(0xfbf8f4);
    let light = &scene.light;
    let ball = scene.ball;
    let (top, bottom) = (at(0.0, -1.0).y, at(0.0, 0.9).y);
    let dim = if scene.light.kind == Lighting::Night { 0.35 } else { 0.0 };
    canvas.fill_mask(&mask, |p, _| {
        let shade = 1.0 - smoothstep(top, lerp(top, bottom, 0.55), p.y);
        let lit = light.on(white, ball.normal(p)).mix(white, 0.25 - 0.5 * dim);
        (lit * rgb(1.0 - 0.24 * shade, 1.0 - 0.24 * shade, 1.0 - 0.18 * shade), 1.0)
    });

    // Iris and pupil lie a little deeper than the lids.
    let iris = high * 0.90 * lids.iris * (1.0 - 0.06 * eyes.size);
    let gaze = scene.gaze;
    let round = |radius: f32, dx: f32, dy: f32| {
        let points: Vec<Vec2> = (0..10)
            .map(|k| {
                let (sin, cos) = sin_cos(k as f32 * 36.0);
                let x = center + gaze.x + dx + radius * cos * 0.94;
                let y = EYES + gaze.y + dy - 0.02 + radius * sin;
                scene.raised(x, y, 0.01)
            })
            .collect();
        Path::loop_through(&points)
    };
    let middle = scene.raised(center + gaze.x, EYES + gaze.y - 0.02, 0.01);
    let reach = iris * scene.head.scale;
    let color = eyes.color;
    let deep = (color * 0.38).saturated(1.2);
    let bright = color.mix(rgb(1.0, 0.98, 0.9), 0.32).saturated(1.15);
    canvas.fill_in(&round(iris, 0.0, 0.0), &mask, |p, _| {
        let d = (p - middle) * (1.0 / reach);
        let rim = smoothstep(0.72, 1.0, d.length());
        let glow = smoothstep(-0.5, 0.9, d.y);
        let tone = color.mix(bright, glow).mix(deep, rim.max(0.75 * smoothstep(0.1, -1.0, d.y)));
        (light.on(tone, ball.normal(p)).mix(tone, 0.3 - 0.6 * dim), 1.0)
    });
    let black = hex(0x17121a);
    canvas.fill_in(&round(iris * 0.47, 0.0, 0.0), &mask, tint(black, 0.95));
    let shine = rgb(1.0, 1.0, 1.0) * if dim > 0.0 { 0.85 } else { 1.0 };
    let toward = light.side;
    let spark = round(iris * 0.30, toward * iris * 0.36, -iris * 0.40);
    canvas.fill_in(&spark, &mask, tint(shine, 0.96));
    let glint = round(iris * 0.15, -toward * iris * 0.38, iris * 0.42);
    canvas.fill_in(&glint, &mask, tint(shine, 0.65));
    if scene.shot.expression == Expression::Sad {
        // Tears stand along the lower lid.
        let tear = [at(0.7, lower_v(0.45)), at(0.0, lower_v(0.68)), at(-0.6, lower_v(0.5))];
        canvas.fill_in(&Path::stroke(&tear, 0.012), &mask, tint(shine, 0.75));
    }

    // Lids.
    let lash = hex(0x2a1a1e).mix(character.hair.color * 0.4, 0.25);
    let ink = line(scene, lash);
    let heavy = if woman { 0.0205 } else { 0.0165 };
    let mut lid = upper.to_vec();
    if woman {
        lid.push(at(1.24, -0.20));
    } else {
        lid.push(at(1.06, 0.06));
    }
    canvas.fill(&Path::brush(&lid, |t| heavy * lerp(0.35, 1.0, t) * taper(0.5 * t + 0.25 * t * t)), &ink);
    let skin_line = line(scene, character.skin.line());
    let under = [at(0.86, lower_v(0.34)), lower[0], lower[1], at(-0.3, lower_v(0.80))];
    canvas.fill(&Path::stroke(&under, 0.006), |p, below| {
        let (color, _) = skin_line(p, below);
        (color, 0.55)
    });
    let crease = [
        at(-0.62, upper_v(-0.62, -0.98)),
        at(-0.1, upper_v(-0.1, -1.34)),
        at(0.45, upper_v(0.45, -1.28)),
        at(0.95, upper_v(0.95, -0.62)),
    ];
    canvas.fill(&Path::stroke(&crease, 0.0065), |p, below| {
        let (color, _) = skin_line(p, below);
        (color, 0.5)
    });
    if scene.shot.expression == Expression::Sad && side == scene.light.side {
        let from = at(0.25, lower_v(0.95));
        let to = at(0.35, 2.35);
        let along = (to - from) * 0.5;
        let drop = Path::brush(&[from, from + along, to], |t| 0.004 + 0.014 * t * (2.0 - t));
        let end = Path::circle(to, 0.0085);
        let water = light.on(hex(0xbfe6ff), vec3(0.0, 0.0, 1.0));
        canvas.fill(&drop, tint(water, 0.75));
        canvas.fill(&end, tint(water, 0.9));
        canvas.fill(&Path::circle(to - vec2(0.002, 0.003), 0.0032), tint(shine, 0.95));
    }
}

// Brows

fn brow(canvas: &mut Canvas, scene: &Scene<'_>, side: f32) {
    if eye_shown(scene, side) < 0.10 {
        return;
    }
    let character = scene.character;
    let brows = character.brows;
    let man = if character.sex == Sex::Man { 1.0 } else { 0.0 };
    // Downwards is positive: the inner end, the middle, the outer end, and how much nearer the inner end is to the nose.
    let (inner, middle, outer, near) = match scene.shot.expression {
        Expression::Neutral => (0.0, 0.0, 0.0, 0.0),
        Expression::Smile => (-0.03, -0.05, -0.01, 0.0),
        Expression::Angry => (0.15, 0.04, -0.07, 0.06),
        Expression::Surprised => (-0.13, -0.19, -0.12, 0.0),
        Expression::Sad => (-0.15, -0.02, 0.07, 0.03),
    };
    let base = -0.28 + 0.035 * man;
    let slant = 0.026 * brows.slant;
    let arch = 0.026 + 0.034 * brows.arch;
    let spacing = eye_spacing(scene);
    let at = |u: f32, y: f32| {
        let x = spacing + u * 0.25 - near * (1.0 - u) * 0.5;
        scene.raised(side * x, base + y, 0.015)
    };
    let points = [
        at(-0.92, 0.020 + slant + inner),
        at(-0.35, 0.0 - 0.4 * arch + 0.4 * slant + lerp(inner, middle, 0.5)),
        at(0.35, -0.02 - arch - 0.3 * slant + middle),
        at(1.02, 0.050 - slant + outer),
    ];
    let thick = (0.0175 + 0.0070 * brows.thickness + 0.0065 * man) * (scene.head.scale / 0.245);
    let hair = character.hair.color;
    let color = if hair.luma() > 0.6 {
        (hair * 0.62).mix(character.skin * 0.45, 0.35)
    } else {
        (hair * 0.72).mix(hex(0x2a1c1c), 0.3)
    };
    let width = |t: f32| thick * lerp(1.0, 0.28, t * t) * smoothstep(-0.35, 0.18, t);
    canvas.fill(&Path::brush(&points, width), line(scene, color));
}

// The nose

/// The nose's middle line from the brows to the lip, in space.
fn ridge(scene: &Scene<'_>) -> [super::geometry::Vec3; 8] {
    let nose = scene.character.nose;
    let man = if scene.character.sex == Sex::Man { 1.0 } else { 0.0 };
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
        at(lerp(0.06, tip, 0.55), lerp(bridge, out, 0.48) - 0.02 * nose.tip),
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
    0.125 + 0.032 * scene.character.nose.width
}

/// How much of the nose's side is seen: -1 to 1.
pub(crate) fn sideways(scene: &Scene<'_>) -> f32 {
    sin_cos(scene.yaw).0
}

/// The nose as it stands out of the face, turned to a side.
fn nose_side(scene: &Scene<'_>) -> Path {
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

fn nose(canvas: &mut Canvas, scene: &Scene<'_>, skin: &Mask) {
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
        .through(&[scene.raised(half * 0.5, tip + 0.15, 0.0), scene.raised(0.0, tip + 0.17, 0.0), scene.raised(-half * 0.5, tip + 0.15, 0.0), wing(-1.0, 0.04)])
        .close();
    canvas.fill_in(&under, skin, darken(rgb(0.82, 0.66, 0.66), 0.5));

    // Light on ridge and tip.
    let shine = scene.light.on(scene.character.skin.mix(rgb(1.0, 1.0, 0.98), 0.55), vec3(0.0, 0.0, 1.0));
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
        let hole = Path::brush(&[inner, inner.mix(outer, 0.5) - vec2(0.0, 0.006), outer], |t| thick * taper(t));
        canvas.fill_in(&hole, skin, |p, b| (ink(p, b).0, 0.55 + 0.35 * below));
        // The wing.
        let curve = [
            scene.raised(side * half * 0.98, tip - 0.045, 0.04),
            scene.raised(side * half * 1.10, tip + 0.02, 0.03),
            scene.raised(side * half * 0.92, tip + 0.075, 0.04),
        ];
        canvas.fill_in(&Path::stroke(&curve, 0.0075), skin, |p, b| (ink(p, b).0, 0.6));
    }

    // Seen from the side, the ridge is a line.
    let strength = smoothstep(0.22, 0.55, aside.abs());
    if strength > 0.0 {
        let from = if aside.abs() > 0.8 { 0 } else { 2 };
        canvas.fill(&Path::brush(&ridge[from..8], |t| LINE * 0.85 * taper(t * 0.9 + 0.1)), |p, b| {
            (ink(p, b).0, strength)
        });
    } else {
        let curve = [wing(-0.5, 0.085), ridge[6] + vec2(0.0, 0.004), wing(0.5, 0.085)];
        canvas.fill(&Path::stroke(&curve, 0.007), |p, b| (ink(p, b).0, 0.6));
    }
}

// The mouth

/// Height of the line between the lips.
fn mouth_y(scene: &Scene<'_>) -> f32 {
    0.655 + 0.05 * scene.character.face.length
}

fn mouth(canvas: &mut Canvas, scene: &Scene<'_>) {
    let character = scene.character;
    let mouth = character.mouth;
    let woman = character.sex == Sex::Woman;
    let wide = 0.205 * (1.0 + 0.16 * mouth.width);
    let full = (1.0 + 0.38 * mouth.fullness) * if woman { 1.12 } else { 0.85 };
    let y0 = mouth_y(scene);
    // The lips curve around the teeth.
    let at = |x: f32, y: f32| scene.raised(x * wide, y0 + y, 0.05 - 0.20 * x * x * sideways(scene).abs());
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
            let top = [at(0.62, -0.012), at(0.0, 0.012), at(-0.62, -0.012), corner(-1.0)];
            let bottom = [at(-0.75, 0.10), at(0.0, 0.175), at(0.75, 0.10), corner(1.0)];
            let outer_top = [at(0.66, -0.055), at(0.22, -0.058 - 0.012 * full), at(0.0, -0.04), at(-0.22, -0.058 - 0.012 * full), at(-0.66, -0.055), corner(-1.0)];
            let outer_bottom = [at(-0.78, 0.135), at(0.0, 0.185 + 0.055 * full), at(0.78, 0.135), corner(1.0)];
            let whole = Path::default().move_to(corner(1.0)).through(&outer_top).through(&outer_bottom).close();
            canvas.fill(&whole, &lips);
            let inside = Path::default().move_to(corner(1.0)).through(&top).through(&bottom).close();
            let mask = canvas.mask(&inside);
            canvas.fill_mask(&mask, &dark);
            let tongue_shape = Path::ellipse(at(0.0, 0.175), vec2(0.028, 0.015), 0.0);
            canvas.fill_in(&tongue_shape, &mask, &tongue);
            let row = Path::default()
                .move_to(corner(1.0))
                .through(&top)
                .through(&[at(-0.72, 0.045), at(0.0, 0.098), at(0.72, 0.045), corner(1.0)])
                .close();
            canvas.fill_in(&row, &mask, &teeth);
            let mut edge = vec![corner(1.0) + vec2(0.004, -0.002)];
            edge.extend_from_slice(&top);
            canvas.fill(&Path::stroke(&edge, 0.007), &ink);
            for side in [-1.0, 1.0] {
                let dimple = [at(side * 1.32, -0.12), at(side * 1.40, -0.06), at(side * 1.33, 0.0)];
                canvas.fill(&Path::stroke(&dimple, 0.006), |p, b| (ink(p, b).0, 0.45));
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
            canvas.fill(&ring(0.66, -0.13 - 0.02 * full, 0.15 + 0.03 * full), &lips);
            let mask = canvas.mask(&ring(0.48, -0.105, 0.125));
            canvas.fill_mask(&mask, &dark);
            canvas.fill_in(&Path::ellipse(at(0.0, 0.18), vec2(0.022, 0.014), 0.0), &mask, &tongue);
            let row = Path::polygon(&[at(-0.6, -0.1), at(0.6, -0.1), at(0.5, -0.02), at(-0.5, -0.02)]);
            canvas.fill_in(&row, &mask, &teeth);
        }
        expression => {
            // Closed lips: how low the corners are, how low the middle, and how wide it is.
            let (corner, middle, stretch) = match expression {
                Expression::Angry => (0.055, -0.022, 0.92),
                Expression::Sad => (0.070, -0.020, 0.84),
                _ => (-0.006, 0.012, 1.0),
            };
            let p = |x: f32, y: f32| at(x * stretch, y);
            let corners = [p(1.0, corner), p(-1.0, corner)];
            let seam = [p(0.5, lerp(corner, middle, 0.72)), p(0.0, middle + 0.008), p(-0.5, lerp(corner, middle, 0.72)), corners[1]];
            let thin = if expression == Expression::Angry { 0.6 } else { 1.0 };
            let up = 0.055 * full * thin;
            let top = [
                p(-0.55, lerp(corner, middle, 0.7) - up * 0.72),
                p(-0.18, middle - up),
                p(0.0, middle - up * 0.72),
                p(0.18, middle - up),
                p(0.55, lerp(corner, middle, 0.7) - up * 0.72),
                corners[0],
            ];
            let down = 0.088 * full * thin;
            let bottom = [
                p(-0.5, lerp(corner, middle, 0.8) + down * 0.8),
                p(0.0, middle + down),
                p(0.5, lerp(corner, middle, 0.8) + down * 0.8),
                corners[0],
            ];
            let upper = Path::default().move_to(corners[0]).through(&seam).through(&top).close();
            let lower = Path::default().move_to(corners[0]).through(&seam).through(&bottom).close();
            canvas.fill(&lower, &lips);
            canvas.fill(&upper, &upper_lip);
            let shine = scene.light.on(lip.mix(rgb(1.0, 1.0, 1.0), 0.5), vec3(0.0, 0.0, 1.0));
            let gleam = [p(-0.25, middle + down * 0.55), p(0.0, middle + down * 0.62), p(0.25, middle + down * 0.55)];
            canvas.fill(&Path::stroke(&gleam, 0.008), tint(shine, if woman { 0.6 } else { 0.25 }));
            let mut edge = vec![corners[0]];
            edge.extend_from_slice(&seam);
            let heavy = if expression == Expression::Neutral { 0.0085 } else { 0.011 };
            canvas.fill(&Path::stroke(&edge, heavy), &ink);
            let shadow = [p(-0.42, middle + down + 0.04), p(0.0, middle + down + 0.052), p(0.42, middle + down + 0.04)];
            canvas.fill(&Path::stroke(&shadow, 0.010), darken(rgb(0.80, 0.62, 0.62), 0.45));
        }
    }
}

// Beards

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
            at(k, lerp(chin, 0.86, share * share), drop * (1.0 - share * share))
        })
        .collect();
    let mut points: Vec<Vec2> = (-5..=5).map(|k| at(k, 0.80, 0.0)).collect();
    points.extend(low.iter().rev());
    (Path::loop_through(&points), low)
}

fn beard(canvas: &mut Canvas, scene: &Scene<'_>, skin: &Mask) {
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
            canvas.fill_mask(&soft, |p, below| (grown(p, below).0, 0.34));
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
                canvas.fill(&Path::stroke(&strand, 0.006), |p, b| (ink(p, b).0, 0.55));
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
                let strand = [p(top, 0.0), p(lerp(top, low, 0.5), 0.2 * drop), p(low, 0.7 * drop)];
                canvas.fill_in(&Path::stroke(&strand, 0.007), &mask, |p, b| (ink(p, b).0, 0.5));
            }
        }
    }
}

fn moustache(canvas: &mut Canvas, scene: &Scene<'_>) {
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
        let points = [at(0.0, -0.085 + lifted), at(side * 0.12, -0.075 + lifted), at(side * 0.22, -0.01 + lifted), at(side * 0.27, 0.06 + 1.6 * lifted)];
        canvas.fill(&Path::brush(&points, |t| 0.030 * (1.0 - 0.8 * t * t)), &hairs);
    }
}

// Marks

fn freckles(canvas: &mut Canvas, scene: &Scene<'_>, skin: &Mask) {
    let share = scene.character.freckles;
    if share <= 0.0 {
        return;
    }
    let mut random = Random::new(scene.character.seed, "freckles");
    let ink = line(scene, scene.character.skin.mix(hex(0x9a4a1e), 0.62) * 0.86);
    for side in [-1.0, 1.0] {
        for _ in 0..(5.0 + 8.0 * share) as usize {
            let x = side * random.range(0.08, 0.56);
            let y = 0.33 + random.swing(0.11);
            let radius = random.range(0.0042, 0.0066);
            if eye_shown(scene, side) < 0.1 && x.abs() > 0.05 {
                continue;
            }
            let at = scene.face(x, y);
            canvas.fill_in(&Path::circle(at, radius), skin, |p, b| (ink(p, b).0, 0.8));
        }
    }
}

fn marks(canvas: &mut Canvas, scene: &Scene<'_>) {
    let character = scene.character;
    if let Some(mole) = character.mole {
        let (x, y): (f32, f32) = match mole {
            Mole::LeftEye => (-0.40, 0.30),
            Mole::RightEye => (0.40, 0.30),
            Mole::LeftMouth => (-0.27, 0.57),
            Mole::RightMouth => (0.27, 0.57),
        };
        if eye_shown(scene, x.signum()) > 0.12 {
            let mark = Path::circle(scene.raised(x, y, 0.01), 0.0098);
            canvas.fill(&mark, line(scene, hex(0x3a1f1a)));
        }
    }
    if let Some(scar) = character.scar {
        let (side, from, to) = match scar {
            Scar::LeftBrow => (-1.0, (0.40, -0.46), (0.30, -0.12)),
            Scar::RightBrow => (1.0, (0.40, -0.46), (0.30, -0.12)),
            Scar::LeftCheek => (-1.0, (0.56, 0.26), (0.26, 0.50)),
            Scar::RightCheek => (1.0, (0.56, 0.26), (0.26, 0.50)),
        };
        if eye_shown(scene, side) > 0.12 {
            let at = |(x, y): (f32, f32)| scene.raised(side * x, y, 0.02);
            let middle = (lerp(from.0, to.0, 0.5) + 0.03, lerp(from.1, to.1, 0.5));
            let points = [at(from), at(middle), at(to)];
            let pale = character.skin.mix(rgb(1.0, 0.90, 0.88), 0.6);
            let edge = character.skin.mix(hex(0xa03038), 0.6) * 0.85;
            canvas.fill(&Path::stroke(&points, 0.020), line(scene, edge));
            canvas.fill(&Path::stroke(&points, 0.011), line(scene, pale));
        }
    }
}
