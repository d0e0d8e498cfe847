use super::random::Random;

/// What a caption says of a picture, and the seed of all that it does not say.
///
/// The seed moves the head a little, turns and scales it, and lays out the place; it does so in the same way for every character.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Shot {
    /// Where the character is seen from.
    pub angle: Angle,
    /// What the face shows.
    pub expression: Expression,
    /// Where the light comes from.
    pub lighting: Lighting,
    /// What lies behind.
    pub place: Place,
    /// What the character wears.
    pub outfit: Outfit,
    /// Small things that differ between two shots of the same words.
    pub seed: u64,
}

impl Shot {
    /// Any shot: every value is equally likely, except that three tenths of the places are plain.
    pub fn random(seed: u64) -> Self {
        let mut random = Random::new(seed, "shot");
        let plain = random.chance(0.3);
        let places = if plain { Place::PLAIN } else { Place::VARIED };
        Self {
            angle: random.pick(Angle::ALL),
            expression: random.pick(Expression::ALL),
            lighting: random.pick(Lighting::ALL),
            place: random.pick(places),
            outfit: random.pick(Outfit::ALL),
            seed: random.next(),
        }
    }
}

macro_rules! values {
    ($(#[$about:meta])* $name:ident { $($(#[$what:meta])* $value:ident),+ $(,)? }) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $name {
            $($(#[$what])* $value),+
        }

        impl $name {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$value),+];
        }
    };
}

values! {
    /// Man or woman.
    Sex {
        /// A woman.
        Woman,
        /// A man.
        Man,
    }
}

values! {
    /// Where the character is seen from. Left and right are the picture's.
    Angle {
        /// Straight at the viewer.
        Front,
        /// The face turned by about 30° to the picture's left.
        ThreeQuarterLeft,
        /// The face turned by about 30° to the picture's right.
        ThreeQuarterRight,
        /// The nose points to the picture's left.
        ProfileLeft,
        /// The nose points to the picture's right.
        ProfileRight,
        /// The viewer looks down on the character.
        Above,
        /// The viewer looks up to the character.
        Below,
    }
}

values! {
    /// What the face shows.
    Expression {
        /// Nothing much.
        Neutral,
        /// A smile that shows teeth.
        Smile,
        /// Anger.
        Angry,
        /// Surprise: wide eyes, an open mouth.
        Surprised,
        /// Sadness.
        Sad,
    }
}

values! {
    /// Where the light comes from, and its colour.
    Lighting {
        /// Soft daylight.
        Natural,
        /// The golden light of lamps, or of a low sun.
        Warm,
        /// Strong light from one side, deep shadow on the other.
        Dramatic,
        /// Light from behind: a bright edge around a shaded face.
        Backlit,
        /// Night: dim and blue.
        Night,
    }
}

values! {
    /// What lies behind the character.
    Place {
        /// A light grey, nearly white backdrop.
        White,
        /// A mid-grey backdrop.
        Grey,
        /// A blue backdrop.
        Blue,
        /// A rose backdrop.
        Rose,
        /// Lawn, round trees, sky.
        Park,
        /// Sea, sand, a palm.
        Beach,
        /// House fronts and street lamps.
        Street,
        /// Shelves of books.
        Library,
        /// Tiles, a shelf, pots.
        Kitchen,
        /// White mountains and firs.
        Snow,
        /// Trunks and shafts of light.
        Forest,
        /// A window on towers, a desk lamp.
        Office,
        /// Hanging lamps before a brick wall.
        Cafe,
        /// A window with fields rushing past.
        Train,
        /// Dunes and a large sun.
        Desert,
        /// A red curtain.
        Stage,
    }
}

impl Place {
    /// The backdrops of a studio.
    pub const PLAIN: &'static [Self] = &[Self::White, Self::Grey, Self::Blue, Self::Rose];
    /// All others.
    pub const VARIED: &'static [Self] = &[
        Self::Park,
        Self::Beach,
        Self::Street,
        Self::Library,
        Self::Kitchen,
        Self::Snow,
        Self::Forest,
        Self::Office,
        Self::Cafe,
        Self::Train,
        Self::Desert,
        Self::Stage,
    ];

    /// Whether it lies under the sky.
    pub fn is_outdoors(self) -> bool {
        matches!(
            self,
            Self::Park | Self::Beach | Self::Street | Self::Snow | Self::Forest | Self::Desert
        )
    }

    /// Whether it is a studio's backdrop.
    pub fn is_plain(self) -> bool {
        Self::PLAIN.contains(&self)
    }
}

values! {
    /// What the character wears.
    Outfit {
        /// A red hoodie.
        Hoodie,
        /// A white shirt with a collar.
        Shirt,
        /// A black suit with a tie.
        Suit,
        /// A denim jacket over white.
        Denim,
        /// A yellow raincoat.
        Raincoat,
        /// A green turtleneck sweater.
        Sweater,
        /// A striped T-shirt.
        Stripes,
        /// A purple robe with golden trim.
        Robe,
    }
}
