use std::collections::HashSet;

use image::RgbImage;
use image::imageops::{FilterType, resize};

use super::wear::wear;
use super::{FaceExaminer, Gallery, ShotExaminer};
use crate::puppet::{Character, HELD_OUT, Sex, Shot, draw, shots};
use crate::school::{Example, SIZE, Stream};

/// Characters of a gallery, the one that is sought among them.
pub const CROWD: usize = 50;
/// Reference pictures of each.
pub const REFERENCES: usize = 8;

/// What is done to a drawn picture before it is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// Nothing.
    Drawn,
    /// It is halved in size and enlarged again.
    Blurred,
    /// It is roughened at random, as in training.
    Worn,
}

impl Condition {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Drawn, Self::Blurred, Self::Worn];

    /// A picture in this condition; `number` decides what is random.
    pub fn apply(self, picture: RgbImage, number: u64) -> RgbImage {
        let (width, height) = picture.dimensions();
        match self {
            Self::Drawn => picture,
            Self::Blurred => {
                let small = resize(&picture, width / 2, height / 2, FilterType::Triangle);
                resize(&small, width, height, FilterType::Triangle)
            }
            Self::Worn => wear(&picture, &mut Stream::new(0, number, "held out")),
        }
    }
}

/// Picture `number` for measuring: a character that nobody trained on, in a shot of its own.
pub fn held_out(number: u64) -> Example {
    let mut random = Stream::new(0, number, "held out");
    Example {
        character: Character::from_seed(random.below(HELD_OUT.end as usize) as u64),
        shot: Shot::random(random.word()),
    }
}

/// How often each of [`ATTRIBUTES`](super::ATTRIBUTES) is read as it was drawn, on this many [`held_out`] pictures; 0 to 1.
pub fn measure_shots(examiner: &ShotExaminer, count: u64, condition: Condition) -> [f64; 6] {
    const AT_ONCE: u64 = 64;
    let mut right = [0_u64; 6];
    for start in (0..count).step_by(AT_ONCE as usize) {
        let numbers = start..count.min(start + AT_ONCE);
        let examples: Vec<Example> = numbers.clone().map(held_out).collect();
        let pictures: Vec<RgbImage> = (examples.iter().zip(numbers))
            .map(|(example, number)| {
                let picture = draw(&example.character, &example.shot, SIZE as u32);
                condition.apply(picture, number)
            })
            .collect();
        for (reading, example) in examiner.read(&pictures).iter().zip(&examples) {
            let agrees = reading.agrees(example.character.sex, &example.shot);
            for (right, agrees) in right.iter_mut().zip(agrees) {
                *right += u64::from(agrees);
            }
        }
    }
    right.map(|right| right as f64 / count as f64)
}

/// A character, and others of the same sex among whom to find it: [`CROWD`] together, the sought one first, the others held out.
pub fn crowd(sought: &Character) -> Vec<Character> {
    let mut random = Stream::new(sought.seed, 0, "crowd");
    let mut taken = HashSet::from([sought.seed]);
    let mut crowd = vec![sought.clone()];
    while crowd.len() < CROWD {
        let seed = random.below(HELD_OUT.end as usize) as u64;
        let other = Character::from_seed(seed);
        if other.sex == sought.sex && taken.insert(seed) {
            crowd.push(other);
        }
    }
    crowd
}

/// The gallery of characters, of [`REFERENCES`] drawn pictures each, in shots of the usual recipe.
pub fn gallery(examiner: &FaceExaminer, characters: &[Character]) -> Gallery {
    let references: Vec<_> = (characters.iter())
        .map(|character| {
            let shots = shots(REFERENCES, !character.seed);
            let draw = |shot| draw(character, shot, SIZE as u32);
            let pictures: Vec<RgbImage> = shots.iter().map(draw).collect();
            examiner.embed(&pictures)
        })
        .collect();
    Gallery::new(&references)
}

/// How well characters were found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Retrieval {
    /// Pictures that were tried.
    pub pictures: u64,
    /// Share of them whose character came first, 0 to 1.
    pub first: f64,
    /// The mean place of the right character; 1 is best, and half of the gallery is chance.
    pub mean_rank: f64,
}

impl Retrieval {
    /// From the place of the right character for each picture.
    pub fn of(ranks: &[usize]) -> Self {
        let count = ranks.len() as f64;
        Self {
            pictures: ranks.len() as u64,
            first: ranks.iter().filter(|&&rank| rank == 1).count() as f64 / count,
            mean_rank: ranks.iter().sum::<usize>() as f64 / count,
        }
    }
}

/// How well each of [`CROWD`] held-out characters of one sex is found among them, by this many pictures of each, in any shot.
pub fn measure_faces(
    examiner: &FaceExaminer,
    sex: Sex,
    each: u64,
    condition: Condition,
) -> Retrieval {
    let first = (HELD_OUT.start..)
        .map(Character::from_seed)
        .find(|character| character.sex == sex);
    let characters = crowd(&first.expect("there are men and women"));
    let gallery = gallery(examiner, &characters);
    let mut ranks = vec![];
    for (index, character) in characters.iter().enumerate() {
        let pictures: Vec<RgbImage> = (0..each)
            .map(|number| {
                let number = index as u64 * each + number;
                let shot = Shot::random(Stream::new(0, number, "query").word());
                condition.apply(draw(character, &shot, SIZE as u32), number)
            })
            .collect();
        let points = examiner.embed(&pictures);
        ranks.extend(points.iter().map(|point| gallery.rank(point, index)));
    }
    Retrieval::of(&ranks)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crowd_is_of_one_sex_and_has_nobody_twice() {
        for seed in [0, 1, 7, 2_000_000] {
            let sought = Character::from_seed(seed);
            let crowd = crowd(&sought);
            assert_eq!((crowd.len(), &crowd[0]), (CROWD, &sought));
            assert!(crowd.iter().all(|one| one.sex == sought.sex));
            assert!(crowd[1..].iter().all(|one| HELD_OUT.contains(&one.seed)));
            let seeds: HashSet<u64> = crowd.iter().map(|one| one.seed).collect();
            assert_eq!(seeds.len(), CROWD);
        }
    }

    #[test]
    fn ranks_are_summed_up() {
        let found = Retrieval::of(&[1, 1, 3, 7]);
        assert_eq!(
            (found.pictures, found.first, found.mean_rank),
            (4, 0.5, 3.0)
        );
    }
}
