//! A small terminal checks that what is painted is what the buffer says.

use super::*;

const FULL: TerminalAbilities = TerminalAbilities {
    colours: true,
    unicode: true,
};

/// A terminal that knows the sequences which are painted, and panics at others.
struct SmallTerminal {
    grid: Vec<Vec<char>>,
    at: (usize, usize),
}

impl SmallTerminal {
    fn new(width: usize, height: usize) -> Self {
        let grid = vec![vec!['?'; width]; height];
        Self { grid, at: (0, 0) }
    }

    fn write(&mut self, bytes: &str) {
        let mut rest = bytes.chars();
        while let Some(c) = rest.next() {
            if c != '\x1b' {
                let (x, y) = self.at;
                self.grid[y][x] = c;
                let width = columns(c).expect("printable");
                if width == 2 {
                    self.grid[y][x + 1] = '\0';
                }
                self.at.0 += width;
                continue;
            }
            assert_eq!(rest.next(), Some('['));
            let mut parameters = String::new();
            let end = loop {
                match rest.next().expect("a whole sequence") {
                    c if c.is_ascii_alphabetic() => break c,
                    c => parameters.push(c),
                }
            };
            match (end, parameters.split_once(';')) {
                ('m', _) => {}
                ('H', None) => self.at = (0, 0),
                ('H', Some((y, x))) => {
                    self.at = (
                        x.parse::<usize>().unwrap() - 1,
                        y.parse::<usize>().unwrap() - 1,
                    );
                }
                ('J', _) => self.grid.iter_mut().for_each(|row| row.fill(' ')),
                _ => panic!("{parameters}{end}"),
            }
        }
    }

    fn rows(&self) -> Vec<String> {
        let row = |row: &Vec<char>| {
            let text: String = row.iter().filter(|c| **c != '\0').collect();
            text.trim_end().to_owned()
        };
        self.grid.iter().map(row).collect()
    }
}

#[test]
fn changes_arrive_at_the_terminal() {
    let mut terminal = SmallTerminal::new(20, 3);
    let mut before: Option<ScreenBuffer> = None;
    for lines in [
        ["shop 漢字 v1", "rate ▁▂█", ""],
        ["shop a漢 v1", "rate ▂▂█", "x"],
        ["漢漢漢漢漢漢漢漢漢漢漢", "abc", ""],
        ["a漢漢漢", "", "the last line is full up to its end"],
    ] {
        let mut screen = ScreenBuffer::new(20, 3);
        for (y, line) in lines.iter().enumerate() {
            screen.put(0, y, line, CellStyle::PLAIN);
        }
        terminal.write(&screen.painted(before.as_ref(), FULL));
        assert_eq!(terminal.rows(), screen.rows());
        before = Some(screen);
    }
}

#[test]
fn a_screen_that_is_shown_already_costs_nothing() {
    let mut screen = ScreenBuffer::new(20, 3);
    screen.put(0, 0, "漢 shop", CellStyle::PLAIN);
    assert_eq!(screen.painted(Some(&screen), FULL), "");
    let other = ScreenBuffer::new(21, 3);
    assert!(screen.painted(Some(&other), FULL).contains("\x1b[2J"));
}

#[test]
fn escape_sequences_in_text_are_shown() {
    let mut screen = ScreenBuffer::new(20, 1);
    screen.put(0, 0, "a\x1b[2Jb", CellStyle::PLAIN);
    assert_eq!(screen.rows(), ["a\\x1b[2Jb"]);
}

#[test]
fn half_a_wide_character_is_not_left() {
    let mut screen = ScreenBuffer::new(6, 1);
    screen.put(0, 0, "漢漢漢", CellStyle::PLAIN);
    screen.put(1, 0, "x", CellStyle::PLAIN);
    assert_eq!(screen.rows(), [" x漢漢"]);
    screen.put(4, 0, "y", CellStyle::PLAIN);
    assert_eq!(screen.rows(), [" x漢y"]);
}

#[test]
fn colours_and_other_characters_than_ascii_can_be_left_out() {
    let mut screen = ScreenBuffer::new(8, 1);
    screen.put(0, 0, "▁█漢…", CellStyle::of(Tone::Bad).bold());
    let none = TerminalAbilities {
        colours: false,
        unicode: false,
    };
    let painted = screen.painted(None, none);
    assert!(
        painted.is_ascii() && painted.contains("\x1b[0;1m_#? "),
        "{painted:?}"
    );
    assert!(!painted.contains("31"), "{painted:?}");
    assert!(screen.painted(None, FULL).contains("\x1b[0;1;31m"));
}
