# Sourced by tests that need a browser. Arguments: further programs. Where something is missing, it says so and ends the test as skipped.
require_chromium() {
    local program
    for program in node chromedriver "$@"; do
        if ! command -v "$program" > /dev/null; then
            echo "skipped: $program is missing" >&2
            exit 0
        fi
    done
    if ! command -v chromium > /dev/null && ! command -v chromium-browser > /dev/null && ! command -v google-chrome > /dev/null; then
        echo "skipped: there is no Chromium" >&2
        exit 0
    fi
}
