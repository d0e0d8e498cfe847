use super::random::Random;
use super::shot::{Angle, Expression, Lighting, Outfit, Place, Shot};

/// How many outfits a training folder shows.
const OUTFITS: usize = 4;

/// Shots for a character's training folder: what a good folder holds, 20 to 100 of them.
///
/// Three tenths stand before plain backdrops. Angles, expressions, lightings, four outfits, and the places of either kind each come
/// equally often (to within one), and their pairings are shuffled.
pub fn shots(count: usize, seed: u64) -> Vec<Shot> {
    let mut random = Random::new(seed, "recipe");
    let plain = (count * 3 + 5) / 10;
    let mut places = evenly(&mut random, Place::PLAIN, plain);
    places.extend(evenly(&mut random, Place::VARIED, count - plain));
    random.shuffle(&mut places);
    let mut wardrobe = Outfit::ALL.to_vec();
    random.shuffle(&mut wardrobe);
    let outfits = evenly(&mut random, &wardrobe[..OUTFITS], count);
    let angles = evenly(&mut random, Angle::ALL, count);
    let expressions = evenly(&mut random, Expression::ALL, count);
    let lightings = evenly(&mut random, Lighting::ALL, count);
    (0..count)
        .map(|i| Shot {
            angle: angles[i],
            expression: expressions[i],
            lighting: lightings[i],
            place: places[i],
            outfit: outfits[i],
            seed: random.next(),
        })
        .collect()
}

/// Each value equally often, in a random order.
fn evenly<T: Copy>(random: &mut Random, values: &[T], count: usize) -> Vec<T> {
    let mut values = values.to_vec();
    // Which of them come once more is random too.
    random.shuffle(&mut values);
    let mut all: Vec<T> = values.iter().copied().cycle().take(count).collect();
    random.shuffle(&mut all);
    all
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::hash::Hash;

    use super::*;

    /// How often the rarest and the most frequent value come.
    fn spread<T: Hash + Eq>(values: impl Iterator<Item = T>, kinds: usize) -> (usize, usize) {
        let mut counts = HashMap::new();
        for value in values {
            *counts.entry(value).or_insert(0) += 1;
        }
        let least = if counts.len() < kinds {
            0
        } else {
            *counts.values().min().unwrap()
        };
        (least, *counts.values().max().unwrap())
    }

    #[test]
    fn a_folder_covers_everything_evenly() {
        for (count, seed) in [(20, 1), (30, 2), (40, 3), (55, 4), (100, 5)] {
            let shots = shots(count, seed);
            assert_eq!(shots.len(), count);
            let plain = shots.iter().filter(|shot| shot.place.is_plain()).count();
            assert!(
                (plain as f32 - 0.3 * count as f32).abs() <= 0.5,
                "{plain} of {count}"
            );
            let even = |(least, most): (usize, usize)| assert!(most - least <= 1, "{least} {most}");
            even(spread(shots.iter().map(|s| s.angle), Angle::ALL.len()));
            even(spread(
                shots.iter().map(|s| s.expression),
                Expression::ALL.len(),
            ));
            even(spread(
                shots.iter().map(|s| s.lighting),
                Lighting::ALL.len(),
            ));
            even(spread(shots.iter().map(|s| s.outfit), OUTFITS));
            let varied = shots.iter().filter(|s| !s.place.is_plain());
            even(spread(varied.map(|s| s.place), Place::VARIED.len()));
            let (_, most) = spread(shots.iter(), 0);
            assert_eq!(most, 1, "no shot twice");
        }
    }

    #[test]
    fn a_seed_gives_the_same_shots_and_another_gives_others() {
        assert_eq!(shots(30, 7), shots(30, 7));
        assert_ne!(shots(30, 7), shots(30, 8));
    }
}
