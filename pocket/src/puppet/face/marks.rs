use super::super::canvas::{Canvas, Mask, Path};
use super::super::character::{Mole, Scar};
use super::super::color::{hex, rgb};
use super::super::geometry::lerp;
use super::super::paint::faint;
use super::super::random::Random;
use super::super::scene::Scene;
use super::{eye_shown, line};

pub(super) fn freckles(canvas: &mut Canvas, scene: &Scene<'_>, skin: &Mask) {
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
            canvas.fill_in(&Path::circle(at, radius), skin, faint(&ink, 0.8));
        }
    }
}

pub(super) fn marks(canvas: &mut Canvas, scene: &Scene<'_>) {
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
