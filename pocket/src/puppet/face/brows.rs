use super::super::canvas::{Canvas, Path};
use super::super::color::hex;
use super::super::geometry::{lerp, smoothstep};
use super::super::paint::faint;
use super::super::scene::Scene;
use super::super::shot::{Expression, Sex};
use super::{eye_shown, eye_spacing, line};

pub(super) fn brow(canvas: &mut Canvas, scene: &Scene<'_>, side: f32) {
    if eye_shown(scene, side) < 0.10 {
        return;
    }
    let character = scene.character;
    let brows = character.brows;
    let man = if character.sex == Sex::Man { 1.0 } else { 0.0 };
    // Downwards is positive: the inner end, the middle, the outer end, and how much nearer the inner end is to the nose.
    let (inner, middle, outer, near) = match scene.shot.expression {
        Expression::Neutral => (0.0, 0.0, 0.0, 0.0),
        Expression::Smile => (-0.04, -0.07, -0.01, 0.0),
        Expression::Angry => (0.23, 0.06, -0.13, 0.07),
        Expression::Surprised => (-0.18, -0.26, -0.17, 0.0),
        Expression::Sad => (-0.22, -0.03, 0.12, 0.04),
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
        at(
            -0.35,
            0.0 - 0.4 * arch + 0.4 * slant + lerp(inner, middle, 0.5),
        ),
        at(0.35, -0.02 - arch - 0.3 * slant + middle),
        at(1.02, 0.050 - slant + outer),
    ];
    let thick = (0.0175 + 0.0070 * brows.thickness + 0.0065 * man) * (scene.zoom());
    let hair = character.hair.color;
    let color = if hair.luma() > 0.6 {
        (hair * 0.62).mix(character.skin * 0.45, 0.35)
    } else {
        (hair * 0.72).mix(hex(0x2a1c1c), 0.3)
    };
    let width = |t: f32| thick * lerp(1.0, 0.28, t * t) * smoothstep(-0.35, 0.18, t);
    canvas.fill(&Path::brush(&points, width), line(scene, color));
    if scene.shot.expression == Expression::Angry {
        let frown = [
            scene.raised(side * 0.085, base + 0.02, 0.02),
            scene.raised(side * 0.060, base + 0.17, 0.02),
        ];
        let ink = line(scene, character.skin.line());
        canvas.fill(&Path::stroke(&frown, 0.009), faint(&ink, 0.7));
    }
}
