# Copyright (c) the autoprog_mm authors. All rights reserved.
"""Headless Chromium, which says what it has made of a page."""
import html
import json
import re
import shutil
import subprocess
from pathlib import Path

CHROMIUM = next(filter(None, map(shutil.which, (
    'chromium', 'chromium-browser', 'google-chrome', 'google-chrome-stable', 'chrome'))), None)

# It stands before the page's own policy, which would refuse it.
PROBE = '''<script>
let refused = [];
document.addEventListener('securitypolicyviolation', event => refused.push(event.blockedURI));
addEventListener('load', () => {
  const box = element => {
    const {left, top, right, bottom} = element.getBoundingClientRect();
    return [left, top, right, bottom];
  };
  const root = document.documentElement;
  root.dataset.probe = JSON.stringify({
    refused: refused,
    requests: performance.getEntriesByType('resource').map(entry => entry.name),
    width: innerWidth, scrollWidth: root.scrollWidth,
    page: getComputedStyle(document.body).backgroundColor,
    pictures: [...document.querySelectorAll('svg')].map(svg => ({
      label: svg.getAttribute('aria-label'), box: box(svg),
      parts: svg.querySelectorAll('path').length,
      texts: [...svg.querySelectorAll('text')].map(text => ({
        text: text.textContent.trim(), box: box(text), color: getComputedStyle(text).fill}))})),
    tables: [...document.querySelectorAll('table')].map(table => ({
      width: table.scrollWidth, room: table.parentElement.clientWidth})),
  });
});
</script>'''


def look_at(page: str, folder: Path, width: int, dark: bool = False) -> dict:
    """Render a page and measure it.

    Args:
        page (str): HTML.
        folder (Path): For files in between.
        width (int): Of the window.
        dark (bool): Whether the reader prefers dark.

    Returns:
        dict: See :data:`PROBE`; boxes are left, top, right, bottom.
    """
    path = folder / 'probe.html'
    path.write_text(page.replace('<head>', f'<head>{PROBE}', 1), encoding='utf-8')
    command = [
        CHROMIUM, '--headless', '--no-sandbox', '--disable-gpu', '--hide-scrollbars',
        '--disable-dev-shm-usage', f'--user-data-dir={folder / "profile"}',
        f'--blink-settings=preferredColorScheme={0 if dark else 1}',
        f'--window-size={width},2000', '--dump-dom', path.as_uri()
    ]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=120)
    found = re.search(r'data-probe="([^"]*)"', shown.stdout)
    assert found, f'{shown.stdout[-2000:]}\n{shown.stderr[-2000:]}'
    return json.loads(html.unescape(found[1]))
