use super::super::canvas::{Canvas, Path, taper};
use super::super::color::{hex, rgb};
use super::super::geometry::{Vec2, lerp, sin_cos, smoothstep, vec2, vec3};
use super::super::paint::{faint, tint};
use super::super::scene::Scene;
use super::super::shot::{Expression, Lighting, Sex};
use super::{EYES, eye_shown, eye_spacing, line, sideways};

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
        Expression::Angry => lids(0.86, 0.62, -0.05, 0.20, 0.92),
        Expression::Surprised => lids(1.40, -0.05, -0.05, -0.15, 0.80),
        Expression::Sad => lids(0.90, -0.05, 0.55, 0.10, 1.0),
    }
}

pub(super) fn eye(canvas: &mut Canvas, scene: &Scene<'_>, side: f32) {
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
    let lower_v = |v: f32| v * (1.0 - lids.lower) * lids.open.clamp(1.0, 1.12);
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
        (
            below * rgb(0.86, 0.74, 0.76),
            0.40 * (1.0 - smoothstep(0.35, 1.0, d)),
        )
    });

    let mask = canvas.mask(&shape);
    let white = hex(0xfbf8f4);
    let light = &scene.light;
    let ball = scene.ball;
    let (top, bottom) = (at(0.0, -1.0).y, at(0.0, 0.9).y);
    let dim = if scene.light.kind == Lighting::Night {
        0.35
    } else {
        0.0
    };
    canvas.fill_mask(&mask, |p, _| {
        let shade = 1.0 - smoothstep(top, lerp(top, bottom, 0.55), p.y);
        let lit = light.on(white, ball.normal(p)).mix(white, 0.25 - 0.5 * dim);
        (
            lit * rgb(1.0 - 0.24 * shade, 1.0 - 0.24 * shade, 1.0 - 0.18 * shade),
            1.0,
        )
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
        let tone = color
            .mix(bright, glow)
            .mix(deep, rim.max(0.75 * smoothstep(0.1, -1.0, d.y)));
        (
            light.on(tone, ball.normal(p)).mix(tone, 0.3 - 0.6 * dim),
            1.0,
        )
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
        let tear = [
            at(0.7, lower_v(0.45)),
            at(0.0, lower_v(0.68)),
            at(-0.6, lower_v(0.5)),
        ];
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
    canvas.fill(
        &Path::brush(&lid, |t| {
            heavy * lerp(0.35, 1.0, t) * taper(0.5 * t + 0.25 * t * t)
        }),
        &ink,
    );
    let skin_line = line(scene, character.skin.line());
    let under = [
        at(0.86, lower_v(0.34)),
        lower[0],
        lower[1],
        at(-0.3, lower_v(0.80)),
    ];
    canvas.fill(&Path::stroke(&under, 0.006), faint(&skin_line, 0.55));
    let crease = [
        at(-0.62, upper_v(-0.62, -0.98)),
        at(-0.1, upper_v(-0.1, -1.34)),
        at(0.45, upper_v(0.45, -1.28)),
        at(0.95, upper_v(0.95, -0.62)),
    ];
    canvas.fill(&Path::stroke(&crease, 0.0065), faint(&skin_line, 0.5));
    // From the side, the tear is on the cheek that is seen.
    let aside = sideways(scene);
    let weeps = if aside.abs() > 0.3 {
        -aside.signum()
    } else {
        light.side
    };
    if scene.shot.expression == Expression::Sad && side == weeps {
        let from = at(0.25, lower_v(0.95));
        let to = at(0.35, 2.35);
        let along = (to - from) * 0.5;
        let drop = Path::brush(&[from, from + along, to], |t| 0.004 + 0.014 * t * (2.0 - t));
        let end = Path::circle(to, 0.0085);
        let water = light.on(hex(0xbfe6ff), vec3(0.0, 0.0, 1.0));
        canvas.fill(&drop, tint(water, 0.75));
        canvas.fill(&end, tint(water, 0.9));
        canvas.fill(
            &Path::circle(to - vec2(0.002, 0.003), 0.0032),
            tint(shine, 0.95),
        );
    }
}
