-- Chooses the route of a study (`routes` in ddwd.yaml). Loaded in ORTHANC1 if there are routes, before autoforward.lua, which uses it.
-- The first image of a study decides, once; the study's metadata DdwdRoute holds the name of the route, or HELD if no route takes it.
-- ddwd/config/routing.py writes the table, and chooses by it in the same way: tests/routes.json has the cases that test both.

local settings = (GetOrthancConfiguration() or {})['Ddwd'] or {}

local HELD = '-'
local REMEMBERED = 2000  -- studies whose route is kept in memory

local function read(path)
  local file = assert(io.open(path, 'r'))
  local text = file:read('a')
  file:close()
  return ParseJson(text)
end

local function lower(text)
  return (text:gsub('[A-Z]', function(letter) return string.char(letter:byte() + 32) end))
end

-- Splits "MR*" at its stars into patterns of Lua; ? is one character of any number of bytes.
local function pieces_of(text)
  local pieces = {}
  for piece in (text .. '*'):gmatch('([^*]*)%*') do
    local escaped = piece:gsub('[%^%$%(%)%%%.%[%]%+%-]', '%%%0')
    pieces[#pieces + 1] = escaped:gsub('%?', (utf8.charpattern:gsub('%%', '%%%%')))
  end
  return pieces
end

-- Matches piece by piece, each at its first possible place, so that many stars do not make a long value slow.
local function matches(pieces, value)
  if #pieces == 1 then
    return value:find('^' .. pieces[1] .. '$') ~= nil
  end
  local _, at = value:find('^' .. pieces[1])
  for index = 2, #pieces - 1 do
    if at then
      _, at = value:find(pieces[index], at + 1)
    end
  end
  return at ~= nil and value:find(pieces[#pieces] .. '$', at + 1) ~= nil
end

local routes, named = read(settings['Routes']), {}
for _, route in ipairs(routes) do
  named[route.Name] = route
  for _, condition in ipairs(route.When) do
    for index, text in ipairs(condition.Patterns) do
      condition.Patterns[index] = pieces_of(text)
    end
  end
end

local function holds(condition, tags)
  local value = tags[condition.Tag]
  local text = (type(value) == 'string' or type(value) == 'number') and tostring(value) or ''
  for one in (text .. '\\'):gmatch('([^\\]*)\\') do
    local plain = lower(one:match('^[ \0]*(.-)[ \0]*$'))
    for _, pattern in ipairs(condition.Patterns) do
      if matches(pattern, plain) then
        return true
      end
    end
  end
  return false
end

local function takes(route, tags)
  for _, condition in ipairs(route.When) do
    if not holds(condition, tags) then
      return false
    end
  end
  return true
end

local function judge(tags)
  for _, route in ipairs(routes) do
    if takes(route, tags) then
      return route
    end
  end
  return nil
end

local known, count = {}, 0   -- Orthanc's ID of a study -> its route, or false for one that is held

local function remember(study, route)
  if count >= REMEMBERED then
    known, count = {}, 0
  end
  known[study], count = route or false, count + 1
end

local function get(path)
  local answer = RestApiGet(path, false)
  return answer and ParseJson(answer) or {}
end

local function metadata_of(study)
  return get('/studies/' .. study .. '/metadata?expand')
end

-- The main DICOM tags of the image's patient, study and series, and who sent it. Never all its elements: see autoforward.lua.
local function facts_of(instance, study)
  local facts = get('/instances/' .. instance .. '/series')['MainDicomTags'] or {}
  for _, level in ipairs({ 'MainDicomTags', 'PatientMainDicomTags' }) do
    for tag, value in pairs(study[level] or {}) do
      facts[tag] = value
    end
  end
  facts['CallingAET'] = RestApiGet('/instances/' .. instance .. '/metadata/RemoteAET', false) or ''
  return facts
end

-- Returns the route decided before, or decides by this image; nil if no route takes the study.
local function decide(instance, study)
  local kept = metadata_of(study['ID'])['DdwdRoute']
  if kept == HELD or named[kept or ''] then
    return named[kept]
  end
  local route = judge(facts_of(instance, study))
  RestApiPut('/studies/' .. study['ID'] .. '/metadata/DdwdRoute', route and route.Name or HELD, false)
  return route
end

DdwdRoutes = {}

-- Returns the route for the study of an image that was just stored; nil if the study is held.
function DdwdRoutes.of(instance)
  local study = get('/instances/' .. instance .. '/study')
  if not study['ID'] then
    return nil  -- deleted meanwhile
  end
  if known[study['ID']] == nil then
    remember(study['ID'], decide(instance, study))
  end
  return known[study['ID']] or nil
end

-- Returns the route that was decided for a study; nil if it is held.
function DdwdRoutes.kept(study)
  return named[metadata_of(study)['DdwdRoute'] or '']
end

-- Forgets a deleted study: if it is sent again, its metadata is gone, and the route is decided again.
local deleted_before = OnDeletedStudy
function OnDeletedStudy(study)
  if deleted_before then
    deleted_before(study)
  end
  known[study] = nil
end
